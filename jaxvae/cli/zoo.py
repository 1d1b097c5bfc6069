"""`jaxvae zoo`."""

from jaxvae.cli import options
from jaxvae.cli.doctor import table
from jaxvae.presets import zoo

HEAD = ("", "preset", "data", "size", "number", "made by")


def run_zoo(args: options.Zoo) -> int:
    """Prints the trained models that come with this package; returns the exit code."""
    found = zoo.entries()
    if not found:
        print("this installation has no trained models; `jaxvae pull USER/NAME` fetches one.")
        return 0
    print(table([HEAD, *map(row, found)]))
    print(f"\njaxvae.load('zoo:{found[0].name}'), and zoo:NAME in place of RUN in every command")
    return 0


def row(entry: zoo.Entry) -> tuple[str, ...]:
    """Returns what is shown of a model."""
    size = f"{entry.size / 1e6:.2f} MB"
    return (entry.name, entry.preset, entry.data, size, number(entry), entry.command)


def number(entry: zoo.Entry) -> str:
    """Returns the main number with its unit, with which a protocol begins: "elbo -98.7 nats per
    example", "lpips 0.0717 LPIPS(squeeze) 0.1"."""
    if entry.number is None:
        return "-"
    value, protocol = entry.number["value"], entry.number["protocol"]
    shown = str(value)
    if isinstance(value, float):
        shown = f"{value:.3g}" if -1.0 < value < 1.0 else f"{value:.2f}"
    unit = protocol.split(",")[0].split(" of ")[0]
    return f"{entry.number['metric']} {shown} {unit}".strip()
