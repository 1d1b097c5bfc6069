"""What the compilers of TPUs and of NVIDIA's GPUs make of every preset, on a machine that has none.

    make tpu                                        # in an environment of its own, .venv-tpu
    make cuda                                       # the same for four H100, in .venv-cuda
    python -m benchmarks.tpu [--cuda] [--only GLOB] [--minutes 25] [--again]
    python -m benchmarks.tpu [--cuda] --table       # what has been compiled, in Markdown

The TPU's compiler is in libtpu, CUDA's in jax-cuda12-pjrt; both compile ahead of time for a topology
by name, with shapes for arrays. An entry is CASE/PROGRAM/TOPOLOGY/PRECISION. A case is a preset with
its own options on MNIST's shape, or one of `MORE`; of a preset with stages, each of them; or one of
`LARGE`, nets at large images, with and without rematerialisation. A batch that the chips do not divide
is made larger. Programs:

    step, step_pmap          a training step, jitted over the mesh and pmapped
    resident, streamed       the compiled loop of many steps over data on the chips, and sent in blocks
    evaluate, evaluate_pmap  the evaluation step
    sample                   as many samples as a batch has examples, cut over the mesh

Precisions are those of `--precision`: "float32" is that of products and convolutions, too; "default"
leaves those to the chip, one pass of bfloat16 on a TPU, TF32 on a GPU; "bfloat16" computes nets in it.

Of each: seconds of tracing and of the compiler, floating point operations and bytes of memory traffic
of one chip (a loop's body counts once; CUDA's compiler tells neither), bytes of arguments, results and
temporaries on a chip, its collectives by kind, each with the arrays and bytes that it moves, and what
should not be there: float64, calls of the host. What a compiler refuses is an entry with its first
line.

Each entry is written to results/tpu.json or results/cuda.json when it is there; a further run goes on
with what is missing.
"""

import argparse
import collections
import contextlib
import dataclasses
import fnmatch
import functools
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import measure
from experiments.runner import command
from jaxvae import host, table, writers
from jaxvae.errors import UserError, unknown


class Platform(NamedTuple):
    """Chips that a compiler knows without having one."""

    package: str  # that holds the compiler
    make: str  # what installs it
    topologies: tuple[str, ...]  # by name, the first one first
    memory: dict[str, float]  # bytes of a chip


# What libtpu asks of a machine's surroundings, answered: it is no TPU host.
SURROUNDINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
# The GPU as XLA describes it (openxla/xla, pull request 16913).
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472  core_count: 132  fpus_per_core: 128
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000  l2_cache_size: 52428800  clock_rate_ghz: 1.98
  device_memory_size: 84929347584  registers_per_core_limit: 65536
  registers_per_block_limit: 65536  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 7 }
runtime_version { major: 12 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
PLATFORMS = {  # memory: cloud.google.com/tpu/docs/v5e and v6e; H100 above
    "tpu": Platform(
        "libtpu", "make tpu", ("v5e:2x2", "v6e:2x2", "v5e:4x4"), {"v5e": 16e9, "v6e": 32e9}
    ),
    "cuda": Platform("jax_cuda12_plugin", "make cuda", ("h100:1x4x1",), {"h100": 84929347584}),
}
PRECISIONS = ("float32", "bfloat16", "default")  # --precision
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
NEEDED = {  # options that a preset has no default of, or whose default is for larger images
    "intro_vae": {"m": 1.0},
    "style_soft_intro_vae": {"pad": 2},
}
MORE = {  # case -> (preset, data set, options)
    "vae-conv": ("vae", "mnist", {"net": "conv"}),
    "vae-infogan": ("vae", "mnist", {"net": "infogan"}),
    "info_vae-gan": ("info_vae", "mnist", {"divergence": "gan"}),
    "gan-infogan": ("gan", "mnist", {"net": "infogan"}),
    "soft_intro_vae-cifar10": ("soft_intro_vae", "cifar10", {"net": "intro", "latent_dim": 128}),
}
SIDES = {  # of the style-based net's largest images -> its own options: 256 as released, for four
    256: {"batch_size": 16},  # chips; 1024, which nobody has published of it, our own
    1024: {"batch_size": 4, "start_channels": 16},
}
LARGE = {  # case -> the same, with the side of images in place of a data set; of each the step alone
    f"style-{side}{'-remat' if remat else ''}": (
        "style_soft_intro_vae",
        side,
        {
            "resolutions": tuple(2**k for k in range(2, 11) if 2**k <= side),
            "remat": remat,
            **options,
        },
    )
    for side, options in SIDES.items()
    for remat in (False, True)
}
LARGE |= {  # the residual nets of faces, with the batch as released
    f"intro-256{'-remat' if remat else ''}": (
        "soft_intro_vae",
        256,
        {"net": "intro", "latent_dim": 256, "batch_size": 8, "remat": remat},
    )
    for remat in (False, True)
}


# ---- programs ----------------------------------------------------------------------------------


class Work(NamedTuple):
    """What the programs of a case are made of: functions, and shapes placed on a mesh."""

    system: Any
    step: Callable
    state: Any  # TrainState
    source: Any
    batch: Any
    batch_size: int
    mesh: Any

    def placed(self, tree: Any, sharding: Any) -> Any:
        """Returns shapes placed by `sharding`."""
        from jaxvae import parallel

        return parallel.shapes(tree, sharding)


def cases() -> dict[str, tuple[str, str | int, dict[str, Any]]]:
    """Returns (preset, data set or side, options) of each case: every preset as it is, `MORE` and
    `LARGE`."""
    from jaxvae.presets import PRESETS

    known = {name: (name, "mnist", NEEDED.get(name, {})) for name in PRESETS}
    return {**known, **MORE, **LARGE}


def programs(case: str) -> tuple[str, ...]:
    """Returns the names of a case's programs."""
    return ("step",) if case in LARGE else tuple(PROGRAMS)


def systems(case: str, precision: str, chips: int = 1) -> Iterator[tuple[str, Any, Any, Any]]:
    """Yields (name, options, system, source) of a case, or of each of its stages and of what is
    composed of them; with a larger batch where the chips do not divide its own."""
    import jax.numpy as jnp

    from jaxvae import data
    from jaxvae.presets import PRESETS, stages

    preset, chosen, more = cases()[case]
    data_set = "mnist" if isinstance(chosen, int) else chosen
    config = PRESETS[preset].options(Path("-"), data=data_set, precision=precision, **more)
    batch_size = math.ceil(config.batch_size / chips) * chips
    config = dataclasses.replace(config, batch_size=batch_size)
    config.check()
    if isinstance(chosen, int):
        image = jnp.zeros((1, chosen, chosen, 3), jnp.uint8)
        source = data.from_arrays(image, name=f"images of {chosen} pixels")
    else:
        source = data.load(f"fake_{data_set}", "train")
    system = PRESETS[preset].build(config, source.shape, source.num_classes)
    if not PRESETS[preset].stages:
        yield case, config, system, source
        return
    first = stages.first_stage(config)
    built = PRESETS["vae"].build(first, source.shape, source.num_classes)
    yield f"{case}-first", first, built, source
    z = data.from_arrays(jnp.zeros((source.size, config.latent_dim)), name="latents")
    yield f"{case}-second", config, stages.second_stage(config), z
    yield case, config, system, source


def names(case: str) -> list[str]:
    """Returns the names that `systems` gives, without building anything."""
    from jaxvae.presets import PRESETS

    parts = [f"{case}-first", f"{case}-second"] if PRESETS[cases()[case][0]].stages else []
    return [*parts, case]


def work(config: Any, system: Any, source: Any, mesh: Any) -> Work:
    """Returns what the programs of a system are made of; of a composed one, without a step."""
    import jax
    import jax.numpy as jnp

    from jaxvae import parallel
    from jaxvae.train.step import TrainState, init_state, make_train_step

    size = config.batch_size
    example = source.read([0])
    examples = {k: jax.ShapeDtypeStruct((size, *v.shape[1:]), v.dtype) for k, v in example.items()}
    rng, ema = jax.random.key(0), config.ema_decay is not None
    batch = jax.eval_shape(system.preprocess, rng, examples)
    on_each = parallel.replicated(mesh)
    if system.tx is None:
        params, state = jax.eval_shape(system.model.init, rng, batch)
        step = None
        train = TrainState(jnp.zeros((), jnp.int32), params, state, {}, None, rng)
    else:
        step = make_train_step(
            system.model,
            system.tx,
            ema_decay=config.ema_decay,
            accumulate=config.accumulate,
            max_grad_norm=config.max_grad_norm,
        )
        train = jax.eval_shape(
            lambda b: init_state(system.model, system.tx, rng, b, ema=ema), batch
        )
    made = Work(system, step, train, source, batch, size, mesh)
    return made._replace(state=made.placed(train, on_each))


def sliced(of: Work) -> Any:
    """Returns the shapes of a batch as pmapped programs take them."""
    import jax

    n = of.mesh.size
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((n, x.shape[0] // n, *x.shape[1:]), x.dtype), of.batch
    )


def step_program(of: Work) -> Any:
    """Returns the compiled training step, jitted over the mesh."""
    from jaxvae import parallel

    return parallel.jit_step(of.step, of.mesh).lower(of.state, of.batch).compile()


def step_pmap_program(of: Work) -> Any:
    """Returns the compiled training step in pmapped form."""
    from jaxvae import parallel

    mapped = parallel.pmap_step(of.step, list(of.mesh.devices.flat))
    return mapped.lower(of.state, sliced(of)).compile()


def loop_program(of: Work, *, resident: bool) -> Any:
    """Returns the compiled loop, over the whole training split of its data set on each chip or over
    blocks that are sent there."""
    import jax

    from jaxvae import parallel
    from jaxvae.data.preprocess import augmented
    from jaxvae.data.sets import DATA_SETS
    from jaxvae.train.loop import LoopState, compile_program, empty_sums, no_bad

    on_each = parallel.replicated(of.mesh)
    sums = jax.eval_shape(lambda: empty_sums(of.step, of.state, of.batch))
    bad = jax.eval_shape(lambda: no_bad(sums))
    data = None
    if resident:
        known = DATA_SETS.get(of.source.name.removeprefix("fake_"), DATA_SETS["mnist"])
        count = known.counts["train"]
        example = of.source.read([0])
        data = {
            k: jax.ShapeDtypeStruct((count, *v.shape[1:]), v.dtype, sharding=on_each)
            for k, v in example.items()
        }
    return compile_program(
        of.step,
        LoopState(of.state, of.placed(sums, on_each), of.placed(bad, on_each)),
        of.source,
        data,
        preprocess=augmented(of.system.preprocess, of.system.augment),
        batch_size=of.batch_size,
        mesh=of.mesh,
    ).run


def _evaluation(of: Work) -> Callable:
    from jaxvae.train.step import make_eval_step

    return make_eval_step(of.system.model)


def evaluate_program(of: Work) -> Any:
    """Returns the compiled evaluation step, jitted over the mesh."""
    import jax
    import jax.numpy as jnp

    from jaxvae import parallel

    on_each, by_rows = parallel.replicated(of.mesh), parallel.batch_sharded(of.mesh)
    jitted = jax.jit(
        _evaluation(of),
        in_shardings=(on_each, on_each, on_each, by_rows, by_rows),
        out_shardings=on_each,
    )
    mask = jax.ShapeDtypeStruct((of.batch_size,), jnp.float32)
    state = of.state
    return jitted.lower(state.params, state.state, state.rng, of.batch, mask).compile()


def evaluate_pmap_program(of: Work) -> Any:
    """Returns the compiled evaluation step in pmapped form."""
    import jax
    import jax.numpy as jnp

    from jaxvae import parallel

    mapped = jax.pmap(
        _evaluation(of),
        axis_name=parallel.AXIS,
        in_axes=(None, None, None, 0, 0),
        out_axes=None,
        devices=list(of.mesh.devices.flat),
    )
    mask = jax.ShapeDtypeStruct((of.mesh.size, of.batch_size // of.mesh.size), jnp.float32)
    state = of.state
    return mapped.lower(state.params, state.state, state.rng, sliced(of), mask).compile()


def sample_program(of: Work) -> Any:
    """Returns the compiled sampler of as many samples as a batch has examples."""
    import jax

    from jaxvae import parallel
    from jaxvae.presets import conditions

    on_each, by_rows = parallel.replicated(of.mesh), parallel.batch_sharded(of.mesh)
    n = of.batch_size
    cond = jax.eval_shape(lambda b: conditions.of_samples(of.system, b, n), of.batch)

    def sample(params, state, rng, cond):
        return of.system.model.sample(params, state, rng, n, cond)

    jitted = jax.jit(
        sample, in_shardings=(on_each, on_each, on_each, by_rows), out_shardings=by_rows
    )
    state = of.state
    return jitted.lower(state.params, state.state, state.rng, cond).compile()


PROGRAMS: dict[str, Callable[[Work], Any]] = {
    "step": step_program,
    "resident": functools.partial(loop_program, resident=True),
    "streamed": functools.partial(loop_program, resident=False),
    "evaluate": evaluate_program,
    "sample": sample_program,
    "step_pmap": step_pmap_program,
    "evaluate_pmap": evaluate_pmap_program,
}


def has(program: str, of: Work) -> bool:
    """Returns whether a system has such a program: a GAN evaluates nothing, what is composed of
    trained parts is not trained."""
    from jaxvae.train.step import is_measurable

    if program.startswith("evaluate"):
        return is_measurable(of.system.model)
    return of.system.model.sample is not None if program == "sample" else of.step is not None


# ---- what a program is like ----------------------------------------------------------------------


BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8}
BYTES |= {"f64": 8, "c64": 8, "c128": 16}  # of all others 4
SHAPE = re.compile(r"\b([a-z]+\d+|pred)\[([\d,]*)\]")
# the result's type has no word followed by "(": the first one is the operation
OPERATION = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = (?P<type>.*?)\s(?P<name>[a-z][a-z0-9-]*)\(")


def look_over(text: str) -> dict[str, Any]:
    """Returns what a compiled program's text holds: collectives by kind with arrays and bytes, calls
    of code from elsewhere, loops, and what should not be there."""
    collectives: dict[str, dict[str, int]] = {}
    counts: collections.Counter[str] = collections.Counter()
    chains = set()
    for line in text.splitlines():
        found = OPERATION.match(line)
        if found is None:
            continue
        name = found["name"].removesuffix("-start")
        counts[name] += 1
        chain = re.search(
            r'\bchain_id="(\d+)"', line
        )  # one in steps is in the text for each of them
        again = chain is not None and (name, chain[1]) in chains
        chains.update([] if chain is None else [(name, chain[1])])
        if name in COLLECTIVES and not again:
            shapes = SHAPE.findall(found["type"])
            if found["name"] == "all-gather-start":  # gives what it takes, too
                shapes = shapes[len(shapes) // 2 :]
            moved = sum(
                BYTES.get(kind, 4) * math.prod(map(int, filter(None, sides.split(","))))
                for kind, sides in shapes
            )
            kept = collectives.setdefault(name, {"count": 0, "arrays": 0, "bytes": 0})
            for key, value in (("count", 1), ("arrays", len(shapes)), ("bytes", moved)):
                kept[key] += value
    targets = collections.Counter(re.findall(r'custom_call_target="([^"]*)"', text))
    host_calls = sum(counts[name] for name in ("infeed", "outfeed", "send", "recv"))
    host_calls += sum(n for target, n in targets.items() if "callback" in target.lower())
    return {
        "collectives": collectives,
        "custom_calls": dict(targets),
        "loops": counts["while"],
        "sorts": counts["sort"],
        "float64": len(re.findall(r"\bf64\[", text)),
        "host_calls": host_calls,
    }


def facts(compiled: Any, hbm: float) -> dict[str, Any]:
    """Returns what the compiler says of a program, for one chip."""
    cost = compiled.cost_analysis() or {}  # CUDA's compiler tells none
    memory = compiled.memory_analysis()
    held = {
        "arguments": memory.argument_size_in_bytes,
        "results": memory.output_size_in_bytes,
        "shared": memory.alias_size_in_bytes,  # of results, with arguments
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
    }
    total = sum(held.values()) - 2 * held["shared"]
    return {
        "flops": cost.get("flops"),
        "bytes_accessed": cost.get("bytes accessed"),
        "memory": held,
        "hbm_share": total / hbm,
        **look_over(compiled.as_text()),
    }


def compiler(platform: str) -> dict[str, str]:
    """Returns the versions that an entry depends on.

    Raises:
        UserError: where the compiler is not installed.
    """
    package, make, *_ = PLATFORMS[platform]
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"the compiler is in the package {package}, which is not installed here: `{make}` "
            "installs it in an environment of its own."
        )
    return {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", package)}


def mesh_of(platform: str, topology: str) -> Any:
    """Returns a mesh over the chips of a topology by name, none of which need be there."""
    from jax.experimental import topologies

    from jaxvae import parallel

    if platform == "cuda":
        options = {"topology": topology.split(":")[1], "target_config": H100}
    else:
        os.environ.update(SURROUNDINGS)
        options = {"topology_name": topology}
    found = topologies.get_topology_desc(platform=platform, **options)
    return parallel.make_mesh(list(found.devices))


@contextlib.contextmanager
def precision_of(name: str) -> Iterator[None]:
    """Gives products of float32 the precision that a name says."""
    import jax

    from jaxvae.presets.config import Options

    with jax.default_matmul_precision(Options(Path("-"), precision=name).matmul_precision):
        yield


def entry(program: str, of: Work, hbm: float) -> dict[str, Any]:
    """Returns one program's entry: its facts, or why the compiler refuses it."""
    start, cpu = time.perf_counter(), time.process_time()
    try:
        compiled = PROGRAMS[program](of)
        found = facts(compiled, hbm)
    except Exception as error:  # whatever a compiler says
        found = {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"}
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), **found}


# ---- results -------------------------------------------------------------------------------------


def path_of(platform: str) -> Path:
    """Returns the file of a platform's results."""
    return measure.RESULTS / f"{platform}.json"


def read(platform: str) -> dict[str, Any]:
    """Returns the results, or empty ones."""
    path = path_of(platform)
    if not path.is_file():
        return {"benchmark": platform, "entries": {}}
    return json.loads(path.read_text())


def keep(platform: str, results: dict[str, Any], key: str, found: dict[str, Any]) -> None:
    """Puts an entry into the results and writes them."""
    results["entries"][key] = found
    order = {name: i for i, name in enumerate(wanted(platform))}
    pairs = sorted(results["entries"].items(), key=lambda pair: order.get(pair[0], len(order)))
    results["entries"] = dict(pairs)
    writers.write_bytes(path_of(platform), (json.dumps(results, indent=1) + "\n").encode())


def chips_of(topology: str) -> int:
    """Returns how many chips "v5e:4x4" has."""
    return math.prod(map(int, topology.split(":")[1].split("x")))


def wanted(platform: str) -> list[str]:
    """Returns the names of all entries, first those to compile first: every precision on the first
    topology, then on the next."""
    return [
        f"{name}/{program}/{topology}/{precision}"
        for topology in PLATFORMS[platform].topologies
        for precision in PRECISIONS
        for case in cases()
        for name in names(case)
        for program in programs(case)
        if case not in LARGE or LARGE[case][2]["batch_size"] % chips_of(topology) == 0
    ]


@command
def main(argv: list[str] | None = None) -> None:
    """Compiles what is missing, or prints the table of what has been."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuda", action="store_true", help="for NVIDIA's GPUs, not TPUs")
    parser.add_argument("--only", default="*", metavar="GLOB", help="CASE/PROGRAM/CHIPS/PRECISION")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin nothing after these")
    parser.add_argument("--again", action="store_true", help="compile what there is already, too")
    parser.add_argument("--table", action="store_true", help="only print the table, in Markdown")
    args = parser.parse_args(argv)
    platform = "cuda" if args.cuda else "tpu"
    if args.table:
        print(tables(platform, read(platform)["entries"]))
        return
    compile_missing(platform, args.only, args.minutes, again=args.again)


def compile_missing(platform: str, only: str, minutes: float, *, again: bool = False) -> None:
    """Compiles the entries that a pattern names and that are not there, and says one line of each."""
    import jax

    versions, start = compiler(platform), time.perf_counter()
    jax.config.update("jax_platforms", "cpu")
    results = read(platform)
    results["machine"] = {"processor": host.processor(), "cores": os.cpu_count()}
    left = [key for key in wanted(platform) if fnmatch.fnmatch(key, only)]
    if not left:
        raise unknown("entry", only, wanted(platform)[: len(PROGRAMS)])
    left = [key for key in left if again or key not in results["entries"]]
    built: tuple[str, ...] = ()
    works: dict[str, Work] = {}
    why: dict[str, str] = {}  # there are none
    for number, key in enumerate(left):
        if time.perf_counter() - start > 60 * minutes:
            print(f"{len(left) - number} entries are left: run it again.")
            return
        name, program, topology, precision = key.split("/")
        case = next(case for case in cases() if name in names(case))
        if built != (case, topology, precision):
            built, mesh, why = (case, topology, precision), mesh_of(platform, topology), {}
            try:
                with precision_of(precision):
                    made = systems(case, precision, mesh.size)
                    works = {n: work(c, s, d, mesh) for n, c, s, d in made}
            except UserError as error:
                if precision == "float32":
                    raise
                works, why = {}, {"why": str(error)}  # it has no nets in this precision
        if name in works and has(program, works[name]):
            with precision_of(precision):
                hbm = PLATFORMS[platform].memory[topology.split(":")[0]]
                found = entry(program, works[name], hbm)
        else:
            found = {"absent": True, **why}
        keep(platform, results, key, {**found, "versions": versions})
        took = "none" if "absent" in found else f"{found['seconds']:.1f} s"
        print(f"{key}: {found.get('error') or found.get('why') or took}", flush=True)


# ---- the table -----------------------------------------------------------------------------------


def tables(platform: str, entries: dict[str, Any]) -> str:
    """Returns, in Markdown, what has been compiled for each topology and precision, then every program
    of the first topology in float32, the large cases in any precision, and what the compiler refused."""
    first = PLATFORMS[platform].topologies[0]
    parts = [summary(platform, entries)]
    head = ("", "program", "s", "GFLOP", "MB moved", "MiB of arguments", "MiB of temporaries")
    lines, large = ([(*head, "% of memory", "collectives")] for _ in range(2))
    for key, found in entries.items():
        name, program, topology, precision = key.split("/")
        if "memory" not in found:
            continue
        if name in LARGE:
            large.append((name, f"{program}, {topology}, {precision}", *_row(found)))
        elif (topology, precision) == (first, "float32"):
            lines.append((name, program, *_row(found)))
    parts.append(f"{first}, float32, each chip:")
    parts.append(table.grid(lines, range(2, len(head) + 1), True))
    if len(large) > 1:
        parts.append("Nets at large images, each chip:")
        parts.append(table.grid(large, range(2, len(head) + 1), True))
    refused = [f"- `{key}`: {found['error']}" for key, found in entries.items() if "error" in found]
    if refused:
        parts += ["Refused by the compiler:", "\n".join(refused)]
    return "\n\n".join(parts)


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    """Returns the numbers of an entry, in words where a compiler does not tell them."""
    flops, moved, memory = found["flops"], found["bytes_accessed"], found["memory"]
    return (
        f"{found['seconds']:.1f}",
        "" if flops is None else f"{flops / 1e9:.3g}",
        "" if moved is None else f"{moved / 1e6:,.0f}",
        f"{memory['arguments'] / 2**20:.1f}",
        f"{memory['temporaries'] / 2**20:.1f}",
        f"{100 * found['hbm_share']:.2f}",
        ", ".join(
            f"{each['count']} {kind} of {each['bytes'] / 2**20:.2g} MiB"
            for kind, each in found["collectives"].items()
        ),
    )


def summary(platform: str, entries: dict[str, Any]) -> str:
    """Returns the counts of each topology and precision."""
    head = ("chips", "precision", "programs", "compiled", "refused", "not yet", "s together")
    lines = [(*head, "largest % of memory", "float64", "calls of the host")]
    for precision in PRECISIONS:
        for topology in PLATFORMS[platform].topologies:
            keys = [k for k in wanted(platform) if k.endswith(f"/{topology}/{precision}")]
            there = [entries[k] for k in keys if k in entries]
            absent = sum("absent" in found for found in there)
            done = [found for found in there if "memory" in found]
            largest = max((found["hbm_share"] for found in done), default=None)
            numbers = (
                len(keys) - absent,
                len(done),
                sum("error" in found for found in there),
                len(keys) - len(there),
                round(sum(found["seconds"] for found in done)),
            )
            lines.append(
                (
                    topology,
                    precision,
                    *map(str, numbers),
                    "" if largest is None else f"{100 * largest:.1f}",
                    str(sum(found["float64"] > 0 for found in done)),
                    str(sum(found["host_calls"] > 0 for found in done)),
                )
            )
    return table.grid(lines, range(2, len(head) + 3), True)


if __name__ == "__main__":
    main()
