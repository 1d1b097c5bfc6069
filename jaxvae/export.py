"""Parameters as safetensors with a JSON description, readable by anyone, and back.

The format: eight bytes, the length of a JSON header, little-endian; the header, name -> type, shape
and the place of the bytes; the bytes. A name is the path in the trees, such as
params.encoder.Dense_0.kernel.
"""

import json
import os
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from jaxvae import checkpoint, options, run, writers
from jaxvae.errors import UserError
from jaxvae.types import Tree

TYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
NAMES = {np.dtype(dtype): name for name, dtype in TYPES.items()}
FILE = "model.safetensors"


def run_export(asked: options.Export) -> int:
    step = int(asked.step) if asked.step.isdigit() else asked.step
    chosen, path = export(asked.run, asked.out, step=step)
    print(
        f"{path} ({path.stat().st_size / 2**20:.1f} MiB, step {chosen:,}); load it with "
        f"jaxvae.load({str(asked.out)!r})"
    )
    return 0


def export(workdir: str | Path, out: str | Path, *, step: int | str = "latest") -> tuple[int, Path]:
    """Writes `out`/model.safetensors and `out`/config.json from a run; returns the step and the
    first file.

    Raises:
        UserError: where there is no run or no such checkpoint, and for an `out` that holds
            something else.
    """
    out = Path(out)
    if (Path(workdir) / FILE).is_file():
        raise UserError(f"{workdir} is an exported model already: copy the folder.")
    if out.is_dir() and any(out.iterdir()) and not (out / FILE).is_file():
        raise UserError(f"{out} holds other files: choose an empty or new folder.")
    config = run.read_config(workdir)
    number = run.step_of(workdir, step)
    loaded = run.load(workdir, step=number)
    metrics, stages = (
        run.checkpoints_of(workdir).meta(number)["metrics"],
        config.get("preset") == "two_stage_vae",
    )
    arrays = flatten({"params": loaded.params, "state": loaded.state})
    writers.write_bytes(out / FILE, dump(arrays, {"format": "jaxvae", "step": str(number)}))
    writers.write_json(
        out / "config.json",
        {
            "config": config,
            "versions": checkpoint.versions(),
            "step": number,
            "metrics": {"second": metrics} if stages else metrics,
            "parameters": sum(x.size for name, x in arrays.items() if name.startswith("params.")),
            "arrays": {name: [list(x.shape), str(x.dtype)] for name, x in arrays.items()},
        },
    )
    return number, out / FILE


def load(folder: str | Path, template: Tree) -> Tree:
    """Returns the trees of an exported folder in the form of `template` (from `jax.eval_shape`).

    Raises:
        UserError: for a damaged file, and one of another model.
    """
    path = Path(folder) / FILE
    arrays, wanted = read(path), flatten(template)
    have = {name: (x.shape, x.dtype) for name, x in arrays.items()}
    need = {name: (x.shape, x.dtype) for name, x in wanted.items()}
    differing = sorted(
        name for name in have.keys() | need.keys() if have.get(name) != need.get(name)
    )
    if differing:
        raise UserError(
            f"{path} is of another model: {', '.join(differing[:3])} "
            f"differ{'s' if len(differing) == 1 else ''}."
        )
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.numpy.asarray(arrays[_name(path)]), template
    )


def flatten(tree: Tree) -> dict[str, Any]:
    """Returns the leaves of `tree` by name."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def dump(arrays: dict[str, Any], metadata: dict[str, str]) -> bytes:
    """Returns a safetensors file."""
    header: dict[str, Any] = {"__metadata__": metadata}
    parts, at = [], 0
    for name, x in sorted(arrays.items()):
        x = np.asarray(x)
        if x.dtype not in NAMES:
            raise UserError(f"{name} has the type {x.dtype}, which safetensors does not have.")
        part = np.ascontiguousarray(x).astype(x.dtype.newbyteorder("<"), copy=False).tobytes()
        header[name] = {
            "dtype": NAMES[x.dtype],
            "shape": list(x.shape),
            "data_offsets": [at, at + len(part)],
        }
        parts.append(part)
        at += len(part)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the arrays of a safetensors file by name. Raises `UserError` for one that is
    damaged."""
    try:
        content = Path(path).read_bytes()
        length = int.from_bytes(content[:8], "little")
        header, body = json.loads(content[8 : 8 + length]), memoryview(content)[8 + length :]
        header.pop("__metadata__", None)
        found, end = {}, 0
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            array = np.frombuffer(
                body[first:last], np.dtype(TYPES[entry["dtype"]]).newbyteorder("<")
            )
            found[name] = array.reshape(entry["shape"]).astype(TYPES[entry["dtype"]], copy=False)
            end = max(end, last)
        if end != len(body):
            raise ValueError(f"{len(body)} bytes of data where its header says {end}")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): export it again.") from None
    return found
