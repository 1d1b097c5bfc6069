"""`jaxvae doctor`, `jaxvae data list` and `jaxvae data prepare`: what is here, and what is
missing."""

import importlib.metadata
import os
import platform
import re
import shutil

from jaxvae import data
from jaxvae.cli import options
from jaxvae.data import places, prepare
from jaxvae.metrics import weights

EXTRAS = {  # what is not installed with jaxvae -> what it is for, how to get it
    "tensorflow": ("TFDS copies in TFRecord form", "pip install 'jaxvae[tf]'"),
    "gcsfs": ("data behind gs://", "pip install 'jaxvae[gcs]'"),
    "huggingface_hub": ("jaxvae push and pull", "pip install 'jaxvae[hub]'"),
    "tensorboardX": ("train --tensorboard", "pip install 'jaxvae[tensorboard]'"),
}
NO_ACCELERATOR = "none: pip install 'jaxvae[cuda13]' for NVIDIA GPUs, 'jaxvae[tpu]' for Cloud TPU"


def run_data_prepare(args: options.DataPrepare) -> int:
    """Prepares a data set; returns the exit code."""
    prepare.prepare(args.name, data_dir=args.data_dir, source=args.from_)
    return 0


def run_data_list(args: options.DataList) -> int:
    """Prints where the data sets are; returns the exit code."""
    print(table(data.listing(args.data_dir)))
    return 0


def run_weights_list(args: options.WeightsList) -> int:
    """Prints where the weights of metrics are; returns the exit code."""
    print(table(weights.listing(args.data_dir)))
    return 0


def run_weights_fetch(args: options.WeightsFetch) -> int:
    """Downloads the weights of a metric; returns the exit code."""
    weights.fetch(args.name, args.out)
    return 0


def run_doctor(args: options.Doctor) -> int:
    """Prints what is here and what is missing; returns the exit code."""
    print("versions")
    print(table(versions()))
    print("\ndevices")
    print(table(devices()))
    print("\ndata")
    print(table(data.listing(args.data_dir)))
    print(f"  looked in {', '.join(places.roots(args.data_dir))}")
    print("\nweights")
    print(table(weights.listing(args.data_dir)))
    return 0


def table(rows: list[tuple[str, ...]]) -> str:
    """Returns rows of text in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(f"  {line}".rstrip() for line in lines)


def versions() -> list[tuple[str, str, str]]:
    """Returns (package, version, remark) of Python, what jaxvae requires, and what it can use."""
    rows = [("python", platform.python_version(), "")]
    try:
        required = importlib.metadata.requires("jaxvae") or []
    except importlib.metadata.PackageNotFoundError:
        required = ["jax", "flax", "optax"]
    names = dict.fromkeys(
        re.split(r"[ ;<>=!~\[(]", line)[0] for line in required if "extra ==" not in line
    )
    for name in ("jaxvae", *names, *EXTRAS):
        try:
            rows.append((name, importlib.metadata.version(name), ""))
        except importlib.metadata.PackageNotFoundError:
            why = "needed: pip install jaxvae"
            if name in EXTRAS:
                why = "for {}: {}".format(*EXTRAS[name])
            rows.append((name, "not installed", why))
    return rows


def devices() -> list[tuple[str, str]]:
    """Returns what JAX computes on, and how much memory and disk there is."""
    import jax

    try:
        found = jax.devices()
        rows = [("devices", f"{len(found)} x {found[0].device_kind} ({found[0].platform})")]
        if found[0].platform == "cpu":
            rows.append(("accelerators", NO_ACCELERATOR))
        else:
            limit = (found[0].memory_stats() or {}).get("bytes_limit")
            if limit:
                rows.append(("memory of one", f"{limit / 2**30:.1f} GiB"))
    except RuntimeError as error:  # a driver that does not answer
        rows = [("devices", f"JAX cannot start: {str(error).splitlines()[0]}")]
    rows.append(("cores", str(os.cpu_count())))
    if hasattr(os, "sysconf"):
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        rows.append(("host memory", f"{pages * size / 2**30:.1f} GiB"))
    rows.append(("free disk here", f"{shutil.disk_usage('.').free / 2**30:.1f} GiB"))
    return rows
