"""Images per second of every way in which data reach a training step, the host memory they take,
and IW-NLL draws/s.

    python -m benchmarks.input [--rounds 5] [--seconds 2] [--table]

`read/...` is a source alone, in batches of 128 of a random order: a resident array, a memory-mapped
file larger than the cache would keep, and folders of PNG and JPEG files of 32 and 64 pixels decoded
as they are read. `fit/...` is a training run of a 784-400-10 VAE with the same bytes resident, and
streamed. `iw/...` is the importance-weighted bound of the course report's VAE (784-500-20), in
draws (example times sample) a second.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import optax
from PIL import Image

from benchmarks import measure
from experiments.course_report import setting
from jaxvae import Batch, data, models, nets, writers
from jaxvae.data import images
from jaxvae.data.stream import ahead
from jaxvae.metrics import likelihood
from jaxvae.train import fit

BATCH_SIZE = 128
FILES = 2048  # in each folder


def host_memory() -> float:
    """Returns the MiB that this process holds now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20
    except OSError:
        return float("nan")


def folder(place: Path, kind: str, side: int) -> data.Source:
    """Returns a streamed source over FILES smooth pictures, written as `kind` files."""
    path = place / f"{kind}{side}"
    path.mkdir()
    x = data.load("fake_celeb_a", "train").arrays["x"][:, :: 64 // side, :: 64 // side]
    for i in range(FILES):
        Image.fromarray(np.roll(x[i % len(x)], i // len(x), axis=0)).save(path / f"{i:05d}.{kind}")
    limit, images.RESIDENT_BYTES = images.RESIDENT_BYTES, 0
    try:
        return data.folder(path)
    finally:
        images.RESIDENT_BYTES = limit


def reading(source: data.Source, seconds: float):
    """Returns a run that reads batch after batch, two of them ahead."""
    state = {"step": 0}

    def run() -> float:
        start, count = time.perf_counter(), 0
        steps = iter(range(state["step"], state["step"] + 10**9))
        for batch in ahead(lambda step: data.batch_at(source, 0, step, BATCH_SIZE), steps):
            count += len(batch["x"])
            if time.perf_counter() - start > seconds:
                break
        state["step"] = next(steps)
        return count / (time.perf_counter() - start)

    return run


def fitting(source: data.Source, seconds: float):
    """Returns a run of `fit` on a source: the rate over its log lines, compilation left out."""
    model = models.vae(nets.mlp((400,), 20, heads=2), nets.mlp((400,), source.shape), latent_dim=10)
    steps = max(200, int(seconds * 200))

    def run() -> float:
        with tempfile.TemporaryDirectory() as place:
            fit(model, optax.adam(1e-3), source, steps=steps, batch_size=BATCH_SIZE, workdir=place)
            lines = [
                line
                for line in writers.read(Path(place) / "metrics.jsonl")
                if line["split"] == "train"
            ]
        spans = np.diff([0, *(line["step"] for line in lines)])
        return steps / sum(n / line["images_per_s"] for n, line in zip(spans, lines, strict=True))

    return run


def drawing(seconds: float):
    """Returns a run of the importance-weighted bound on 100 images: draws a second."""
    model = setting.build((28, 28, 1), 20)
    x = (np.random.default_rng(0).random((100, 28, 28, 1)) < 0.2).astype(np.float32)
    params, state = model.init(jax.random.key(0), Batch(x))
    k = 200
    chunk = max(
        1,
        likelihood.ROW_BYTES.get(jax.default_backend(), likelihood.MORE_ROW_BYTES)
        // (4 * 784 * 100),
    )
    bound = jax.jit(likelihood.make_iw_bound(model, k, chunk=chunk))

    def run() -> float:
        start, count = time.perf_counter(), 0
        with jax.default_matmul_precision("highest"):
            while time.perf_counter() - start < seconds:
                jax.block_until_ready(bound(params, state, jax.random.key(count), Batch(x)))
                count += 1
        return count * k * len(x) / (time.perf_counter() - start)

    return run


def routes(place: Path, seconds: float) -> tuple[dict, dict[str, float]]:
    """Returns the runs by name, and the MiB of host memory that making each source took."""
    rng = np.random.default_rng(0)
    memory, runs = {}, {}

    def add(name: str, make, run) -> None:
        before = host_memory()
        source = make()
        run_once = run(source, seconds)
        run_once()
        memory[name] = round(host_memory() - before, 1)
        runs[name] = run_once

    mnist = data.from_arrays(rng.integers(0, 256, (60_000, 28, 28, 1), dtype=np.uint8))
    add(
        "read/resident_32",
        lambda: data.from_arrays(rng.integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8)),
        reading,
    )
    add(
        "read/memory_mapped_64",
        lambda: data.from_iterator(
            (row for row in np.zeros((20_000, 64, 64, 3), np.uint8)), spool=place / "mapped"
        ),
        reading,
    )
    for kind in ("png", "jpg"):
        for side in (32, 64):
            add(
                f"read/{kind}_{side}",
                lambda kind=kind, side=side: folder(place, kind, side),
                reading,
            )
    add("fit/resident", lambda: mnist, fitting)
    add("fit/streamed", lambda: mnist._replace(arrays=None), fitting)
    runs["iw/draws"] = drawing(seconds)
    runs["iw/draws"]()
    return runs, memory


def table() -> str:
    """Returns the kept results as Markdown."""
    lines = ["| device | route | per second | host MiB |", "| --- | --- | ---: | ---: |"]
    notes: dict[str, int] = {}
    for result in measure.kept("input"):
        for name, rate in result["rates"].items():
            lines.append(
                f"| {measure.where(result)} | {name} | "
                f"{rate['median']:,.0f}{measure.mark(notes, name, rate)} | "
                f"{result['host_mib'].get(name, '')} |"
            )
    return "\n".join(lines) + measure.foot(notes) if len(lines) > 2 else measure.NOTHING


def main() -> None:
    """Measures what the options on the command line say, prints it and keeps it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--table", action="store_true", help="print the kept results as Markdown, measure nothing"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="per route and round")
    args = parser.parse_args()
    if args.table:
        print(table())
        return
    with tempfile.TemporaryDirectory() as place:
        runs, memory = routes(Path(place), args.seconds)
        rates = measure.summary(measure.alternate(runs, args.rounds))
    result = {
        "benchmark": "input",
        "unit": "images/s (iw: draws/s)",
        "batch_size": BATCH_SIZE,
        "rounds": args.rounds,
        "seconds": args.seconds,
        **measure.machine(),
        "rates": rates,
        "host_mib": memory,
        "streamed_share_of_resident": rates["fit/streamed"]["median"]
        / rates["fit/resident"]["median"],
        "command": f"python -m benchmarks.input --rounds {args.rounds} --seconds {args.seconds:g}",
    }
    for name, rate in rates.items():
        print(
            f"  {name:<24} {rate['median']:>12,.0f}  ({rate['min']:,.0f} to {rate['max']:,.0f})  "
            f"{memory.get(name, '')} MiB"
        )
    print(f"  streamed reaches {result['streamed_share_of_resident']:.1%} of resident")
    print(measure.write("input", result))


if __name__ == "__main__":
    main()
