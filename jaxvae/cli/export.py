"""`jaxvae export`."""

from jaxvae import paths
from jaxvae.cli.options import Export
from jaxvae.presets.export import export


def run_export(args: Export) -> int:
    """Writes the model of a run as a folder of its own; returns the exit code."""
    step = int(args.step) if args.step.isdecimal() else args.step
    options = {"step": step, "stats": args.stats, "data_dir": args.data_dir}
    if args.license is not None:
        options["license"] = args.license
    chosen, path = export(args.run, args.out, **options)
    print(
        f"{path} ({paths.size(path) / 2**20:.1f} MiB, step {chosen:,}); load it with "
        f"jaxvae.load({str(args.out)!r})"
    )
    return 0
