"""Parameters as safetensors with a JSON description, readable by anyone, and back.

A name is the path in the trees, such as params.encoder.Dense_0.kernel.
"""

from pathlib import Path
from typing import Any

import jax

from jaxvae import checkpoint, options, run, safetensors, writers
from jaxvae.errors import UserError, one_line
from jaxvae.types import Tree

FILE = "model.safetensors"


def run_export(args: options.Export) -> int:
    """Writes an exported model; returns the exit code."""
    step = int(args.step) if args.step.isdigit() else args.step
    chosen, path = export(args.run, args.out, step=step)
    print(
        f"{path} ({path.stat().st_size / 2**20:.1f} MiB, step {chosen:,}); load it with "
        f"jaxvae.load({str(args.out)!r})"
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
    content = safetensors.dump(arrays, {"format": "jaxvae", "step": str(number)})
    writers.write_bytes(out / FILE, content)
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
    arrays, wanted = safetensors.read(path), flatten(template)
    have = {name: (x.shape, x.dtype) for name, x in arrays.items()}
    need = {name: (x.shape, x.dtype) for name, x in wanted.items()}
    differing = sorted(
        name for name in have.keys() | need.keys() if have.get(name) != need.get(name)
    )
    if differing:
        raise UserError(
            f"{path} is of another model: {one_line(', '.join(differing[:3]))} "
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
