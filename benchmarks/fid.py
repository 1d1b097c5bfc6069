"""What a Fréchet distance costs: features per second beside PyTorch, seconds and memory for a data
set, the distance itself.

    python -m benchmarks.fid [--rounds 5] [--images 10000] [--inception-images 256] [--weights FILE]

`extract/...` are images of 32x32x3 bytes a second through resizing, scaling and the net, in batches
of 64 and 16; the PyTorch nets are the same layers with the same weights, and their features are
compared. Each has a process of its own; they take turns (`benchmarks.contest`). `statistics/...`
is `fid.statistics` over that many images in a process of its own: seconds with compilation, and the
peak of its memory. Inception has random weights of the published shapes (they cost the same);
SqueezeNet too unless --weights says where its own are. On a CPU Inception's statistics are of fewer
images: 10,000 would take many minutes.
"""

import argparse
import functools
import json
import math
import subprocess
import sys
import time

import jax
import numpy as np

from benchmarks import contest, measure
from experiments.runner import command
from jaxvae import data, host
from jaxvae.metrics import features, fid, frechet, inception, squeezenet, weights
from jaxvae.metrics.protocols import EXTRACTORS

BATCH_SIZES = {"squeezenet": 64, "inception": 16}
NETS = {"squeezenet": squeezenet, "inception": inception}
PROTOCOLS = {"squeezenet": fid.PROTOCOLS["squeezenet"], "inception": fid.PROTOCOLS["standard"]}


def state_dict(name: str, path: str | None = None) -> weights.StateDict:
    """Returns the weights at `path`, or random ones under which signals neither vanish nor
    explode."""
    if path is not None and name == "squeezenet":
        return weights.read(path)
    rng = np.random.default_rng(0)
    found = {}
    for key, shape in NETS[name].shapes().items():
        spread = math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.1
        value = spread * rng.standard_normal(shape) + (
            1.0 if key.endswith(("running_var", "bn.weight")) else 0.0
        )
        found[key] = (np.abs(value) if key.endswith("running_var") else value).astype(np.float32)
    return found


def pictures(n: int) -> data.Source:
    """Returns n smooth pictures of 32x32x3 bytes."""
    x = data.load("fake_cifar10", "train").arrays["x"]
    rows = [np.roll(x, i, axis=(1, 2)) for i in range(-(-n // len(x)))]
    return data.from_arrays(np.concatenate(rows)[:n], name="fake", split="test")


def ours(name: str, arrays: weights.StateDict, x: np.ndarray):
    """Returns a function that gives the features of x [B, H, W, C] on the device."""
    engine = features.make_engine(PROTOCOLS[name], arrays, len(x), None, pictures(len(x)))
    x = jax.device_put(x.astype(np.float32))

    def run():
        with jax.default_matmul_precision("highest"):
            return engine.features(x)

    return run


def theirs(name: str, arrays: weights.StateDict, x: np.ndarray):
    """Returns the same in PyTorch."""
    import torch
    import torch.nn.functional as F

    measure.torch_precision(exact=True)
    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    w = {key: torch.from_numpy(np.array(value)).to(device) for key, value in arrays.items()}
    extractor = EXTRACTORS[PROTOCOLS[name].extractor]
    shift, scale = (
        torch.tensor(v, device=device).reshape(1, -1, 1, 1)
        for v in (extractor.shift, extractor.scale)
    )

    def join(*branches):
        return torch.cat(branches, 1)

    def squeeze(key, x, features, side, stride):
        pad = 0 if stride == 2 else side // 2
        return F.relu(F.conv2d(x, w[f"{key}.weight"], w[f"{key}.bias"], stride, pad))

    def norm(key, x, features, kernel, stride=1, same=True):
        x = F.conv2d(
            x, w[f"{key}.conv.weight"], None, stride, [side // 2 if same else 0 for side in kernel]
        )
        mean, var, gain, bias = (
            w[f"{key}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.relu(F.batch_norm(x, mean, var, gain, bias, eps=inception.EPSILON))

    if name == "squeezenet":
        ops, last = (
            squeezenet.Ops(squeeze, lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True), join),
            "12",
        )
    else:
        ops, last = (
            inception.Ops(
                norm,
                lambda x, stride: F.max_pool2d(x, 3, stride, padding=1 if stride == 1 else 0),
                lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
                join,
            ),
            "Mixed_7c",
        )
    x = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).to(device, torch.float32)

    def run():
        with torch.inference_mode():
            y = F.interpolate(x, size=(extractor.side,) * 2, mode="bilinear", align_corners=False)
            y = NETS[name].net(ops, (y - shift) / scale)[last].mean((2, 3))
            if device == "cuda":
                torch.cuda.synchronize()
            return y

    return run


def extract(name: str, library: str, path: str | None, seconds: float) -> contest.Program:
    """Returns the program that gives features of one batch, "jaxvae"'s or "torch"'s."""
    host.keep_freed_memory()
    size, make = BATCH_SIZES[name], {"jaxvae": ours, "torch": theirs}[library]
    features_of = make(name, of_net(name, path), pictures(size).arrays["x"])
    return measure.program(features_of, size, seconds)


def of_net(name: str, path: str | None) -> weights.StateDict:
    """Returns `state_dict` under the names that the net has."""
    return {key.removeprefix("features."): value for key, value in state_dict(name, path).items()}


def differences(path: str | None) -> dict[str, float]:
    """Returns by how much the features of the two libraries differ at most, relative to the
    largest."""
    apart = {}
    for name, size in BATCH_SIZES.items():
        arrays, x = of_net(name, path), pictures(size).arrays["x"]
        a, b = np.asarray(ours(name, arrays, x)()), theirs(name, arrays, x)().cpu().numpy()
        apart[name] = float(np.abs(a - b).max() / np.abs(b).max())
        print(f"  {name}: features apart by {apart[name]:.1g}", flush=True)
    return apart


def statistics(name: str, images: int, path: str | None) -> dict[str, float]:
    """Returns seconds and peak memory of this process for the statistics of `images` images."""
    arrays, source = state_dict(name, path), pictures(images)
    protocol = PROTOCOLS[name]._replace(split="test", reals=images)
    before, start = contest.peak_memory() / 2**20, time.perf_counter()
    fid.statistics(source, protocol, weights=arrays, cache=False)
    seconds = time.perf_counter() - start
    return {
        "images": images,
        "seconds": round(seconds, 2),
        "images_per_s": round(images / seconds, 1),
        "peak_mib": round(contest.peak_memory() / 2**20),
        "peak_mib_before": round(before),
    }


def distances() -> dict[str, float]:
    """Returns the seconds of one `frechet_distance` by dimension."""
    found = {}
    for d in (512, 2048):
        x = np.random.default_rng(0).standard_normal((2, d + 100, d))
        a, b = (frechet.Moments.of(part).statistics() for part in x)
        start = time.perf_counter()
        frechet.frechet_distance(a.mean, a.cov, b.mean, b.cov)
        found[str(d)] = round(time.perf_counter() - start, 3)
    return found


def child(name: str, images: int, path: str | None) -> dict[str, float]:
    """Returns `statistics` measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.fid", "--only", name, "--images", str(images)]
    out = subprocess.run(
        command + (["--weights", path] if path else []), check=True, capture_output=True, text=True
    ).stdout
    return json.loads(out.splitlines()[-1])


@command
def main() -> None:
    """Measures what the options on the command line say, prints it and keeps it."""
    host.keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="per net and round")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--inception-images", type=int, default=256)
    parser.add_argument("--weights", help="file of SqueezeNet's weights")
    parser.add_argument(
        "--note", default="", help="kept with the result, e.g. that the machine was busy"
    )
    parser.add_argument(
        "--only", choices=list(NETS), help="statistics in this process alone, as one line of JSON"
    )
    args = parser.parse_args()
    if args.only:
        print(json.dumps(statistics(args.only, args.images, args.weights)))
        return
    apart = differences(args.weights)
    found = contest.contest(
        {
            f"extract/{name}/{library}": functools.partial(
                extract, name, library, args.weights, args.seconds
            )
            for name in NETS
            for library in ("jaxvae", "torch")
        },
        args.rounds,
    )
    rates = measure.summary(found.rates)
    ratio = {
        name: rates[f"extract/{name}/jaxvae"]["median"] / rates[f"extract/{name}/torch"]["median"]
        for name in NETS
    }
    result = {
        "benchmark": "fid",
        "unit": "images/s",
        "batch_size": BATCH_SIZES,
        "rounds": args.rounds,
        "seconds": args.seconds,
        **measure.machine(exact=True),
        "rates": rates,
        "alone": found.solo,
        "peak_mib": found.peak_mib,
        "before_mib": found.before_mib,
        "speed_ratio": ratio,
        "largest_relative_difference": apart,
        "squeezenet_weights": "published" if args.weights else "random",
        "inception_weights": "random",
        "statistics": {
            "squeezenet": child("squeezenet", args.images, args.weights),
            "inception": child("inception", args.inception_images, None),
        },
        "frechet_distance_seconds": distances(),
        "note": args.note,
        "command": f"python -m benchmarks.fid --rounds {args.rounds} --images {args.images} "
        f"--inception-images {args.inception_images}",
    }
    for name, value in rates.items():
        print(
            f"  {name:<28} {value['median']:>9,.1f}  ({value['min']:,.1f} to {value['max']:,.1f}) "
            "images/s"
        )
    for name in NETS:
        print(f"  {name}: {ratio[name]:.2f} times PyTorch's speed")
    for name, value in result["statistics"].items():
        print(
            f"  statistics/{name}: {value['images']:,} images in {value['seconds']} s, peak "
            f"{value['peak_mib']} MiB "
            f"({value['peak_mib_before']} before)"
        )
    print(f"  distance: {result['frechet_distance_seconds']} s by dimension")
    print(measure.write("fid", result))


if __name__ == "__main__":
    main()
