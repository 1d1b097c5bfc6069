"""`jaxvae export`."""

from jaxvae.cli import options
from jaxvae.presets.load import export


def run_export(args: options.Export) -> int:
    """Writes the model of a run as a folder of its own; returns the exit code."""
    step = int(args.step) if args.step.isdecimal() else args.step
    chosen, path = export(args.run, args.out, step=step)
    print(
        f"{path} ({path.stat().st_size / 2**20:.1f} MiB, step {chosen:,}); load it with "
        f"jaxvae.load({str(args.out)!r})"
    )
    return 0
