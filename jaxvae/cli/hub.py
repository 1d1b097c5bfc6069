"""`jaxvae push RUN USER/NAME` and `jaxvae pull USER/NAME`."""

import tempfile
from pathlib import Path

from jaxvae import paths
from jaxvae.cli import options
from jaxvae.errors import UserError
from jaxvae.presets import export, hub, released
from jaxvae.presets import load as loading

OF_EXPORT = ("step", "stats", "license", "data_dir")  # options that say how a run is exported


def run_push(args: options.Push) -> int:
    """Puts a model on the Hub; returns the exit code."""
    hub.check_name(args.name)
    hub.check_client()
    folder = loading.place(args.run)
    if released.is_released(folder):
        given = [name for name in OF_EXPORT if getattr(args, name) is not None]
        if given:
            raise UserError(
                f"{args.run} is an exported model, whose weights are pushed as they are: leave out "
                f"--{given[0].replace('_', '-')}."
            )
        _check(folder, str(args.run))
        with tempfile.TemporaryDirectory() as out:
            released.write(out, export.renamed(folder, f"hf:{args.name}"))
            return _push(Path(out), args)
    with tempfile.TemporaryDirectory() as out:
        step = args.step or "latest"
        export.export(
            folder,
            out,
            step=int(step) if step.isdecimal() else step,
            stats=args.stats,
            data_dir=args.data_dir,
            name=f"hf:{args.name}",
            **({} if args.license is None else {"license": args.license}),
        )
        return _push(Path(out), args)


def _push(folder: Path, args: options.Push) -> int:
    address = hub.send(folder, args.name, private=args.private, message=args.message or "")
    print(f"{address}; load it with jaxvae.load('hf:{args.name}')")
    return 0


def run_pull(args: options.Pull) -> int:
    """Fetches a model from the Hub, whole or not at all; returns the exit code."""
    name = args.name.removeprefix("hf:")
    hub.check_name(name)
    out = paths.path(args.out or name.partition("/")[2])
    released.check_target(out)
    folder = hub.fetch(name)
    _check(folder, f"{name} on the Hub")
    found = {name: folder / name for name in released.FILES if (folder / name).is_file()}
    released.write(out, {name: path.read_bytes() for name, path in found.items()})
    print(
        f"{out} ({paths.size(out / released.MODEL) / 2**20:.1f} MiB); load it with "
        f"jaxvae.load({str(out)!r})"
    )
    return 0


def _check(folder: Path, what: str) -> None:
    """Raises `UserError` unless the released model in `folder` can be loaded."""
    try:
        loading.load(folder)
    except UserError as error:
        raise UserError(f"{what} cannot be used: {error}") from None
