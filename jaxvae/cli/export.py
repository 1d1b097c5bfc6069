"""`jaxvae export`."""

from jaxvae.cli import options
from jaxvae.presets.load import export


def run_export(asked: options.Export) -> int:
    step = int(asked.step) if asked.step.isdigit() else asked.step
    chosen, path = export(asked.run, asked.out, step=step)
    print(
        f"{path} ({path.stat().st_size / 2**20:.1f} MiB, step {chosen:,}); load it with "
        f"jaxvae.load({str(asked.out)!r})"
    )
    return 0
