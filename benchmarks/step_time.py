"""Images per second of one VAE training step and of `fit`, against the same net, loss and optimiser
in PyTorch.

    python -m benchmarks.step_time [--rounds 9] [--seconds 2] [--table]

The net is 784-400-(10, 10), 10-400-784 (640,804 parameters), Bernoulli loss, Adam 1e-3, batch 128,
float32. Each program has a process of its own; they take turns (`benchmarks.contest`), and medians
are compared. PyTorch runs eager (its default Adam), eager with the fused Adam, and compiled with
the fused Adam. `fit` includes gathering and scaling bytes, shuffling and the log.
"""

import argparse
import functools
import tempfile
from pathlib import Path

import jax
import numpy as np
import optax

from benchmarks import contest, measure
from experiments.runner import command
from jaxvae import Batch, data, models, nets, writers
from jaxvae.train import fit, init_state, make_train_step

BATCH_SIZE, LATENT_DIM = 128, 10
PARAMETERS = 640_804


def pair(shape=(784,)):
    """Returns encoder and decoder."""
    encoder = nets.mlp((400,), 2 * LATENT_DIM, heads=2, init="xavier")
    return encoder, nets.mlp((400,), shape, init="xavier")


def model(shape=(784,)):
    """Returns the VAE whose step is measured."""
    return models.vae(*pair(shape), latent_dim=LATENT_DIM)


def ours(x: np.ndarray, vae=None):
    """Returns the bare jitted step on one batch, of `model()` or of another VAE."""
    vae, tx, batch = model() if vae is None else vae, optax.adam(1e-3), Batch(jax.device_put(x))
    state = init_state(vae, tx, jax.random.key(0), batch)
    step = jax.jit(make_train_step(vae, tx), donate_argnums=0)

    def advance():
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    return advance


def ours_fit(seconds: float):
    """Returns a run of `fit` on 60,000 byte images: the rate over its log lines, compilation left
    out."""
    rng = np.random.default_rng(0)
    source = data.from_arrays(rng.integers(0, 256, (60_000, 784), dtype=np.uint8))
    vae, tx = model(), optax.adam(1e-3)
    steps = max(300, int(seconds * 400))

    def run():
        with tempfile.TemporaryDirectory() as folder:
            fit(vae, tx, source, steps=steps, batch_size=BATCH_SIZE, workdir=folder)
            lines = [
                line
                for line in writers.read(Path(folder) / "metrics.jsonl")
                if line["split"] == "train"
            ]
        spans = np.diff([0, *(line["step"] for line in lines)])
        return (
            steps
            * BATCH_SIZE
            / sum(
                n * BATCH_SIZE / line["images_per_s"] for n, line in zip(spans, lines, strict=True)
            )
        )

    return run


def torch_step(x: np.ndarray, name: str):
    """Returns the same step in PyTorch, by one of its programs."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.mean, self.logvar = (
                nn.Linear(784, 400),
                nn.Linear(400, LATENT_DIM),
                nn.Linear(400, LATENT_DIM),
            )
            self.decoder = nn.Sequential(nn.Linear(LATENT_DIM, 400), nn.ReLU(), nn.Linear(400, 784))

        def forward(self, x):
            h = F.relu(self.hidden(x))
            mean, logvar = self.mean(h), self.logvar(h)
            z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
            rec = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
            kl = 0.5 * torch.sum(mean.square() + logvar.exp() - 1 - logvar)
            return (rec + kl) / x.shape[0]

    return measure.torch_step(VAE, x, name, learning_rate=1e-3, parameters=PARAMETERS)


def program(name: str, seconds: float) -> contest.Program:
    """Returns "step" or "fit", ours, or one of PyTorch's programs."""
    if name == "fit":
        return contest.Program(ours_fit(seconds), {}, measure.peak_memory)
    x = np.random.default_rng(0).random((BATCH_SIZE, 784), dtype=np.float32)
    if name == "step":
        return measure.program(ours(x), BATCH_SIZE, seconds)
    return measure.program(torch_step(x, name), BATCH_SIZE, seconds)


def table() -> str:
    """Returns the kept results as Markdown."""
    lines = [
        "| device | jaxvae | PyTorch eager | eager, fused Adam | compiled | ratio to eager | "
        "`fit` / step |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    notes: dict[str, int] = {}
    for result in measure.kept("step_time"):
        alone = result.get("alone", {})
        found = {name: result["rates"][name] for name in ("step", *measure.PYTORCH)}
        rates = [
            f"{rate['median']:,.0f}{measure.mark(notes, name, rate, alone.get(name))}"
            for name, rate in found.items()
        ]
        ratio = f"{result['speed_ratio']['pytorch_eager']:.2f}"
        lines.append(
            f"| {measure.where(result)} | {' | '.join(rates)} | {ratio} | {result['fit_share_of_step']:.0%} |"
        )
    said = "Images per second, batch 128, float32; medians."
    return "\n".join([*lines, "", said]) + measure.foot(notes)


@command
def main() -> None:
    """Measures what the options on the command line say, prints it and keeps it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--table", action="store_true", help="print the kept results as Markdown, measure nothing"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="per program and round")
    args = parser.parse_args()
    if args.table:
        print(table())
        return
    names = ["step", "fit", *measure.rivals(True)]
    found = contest.contest(
        {name: functools.partial(program, name, args.seconds) for name in names}, args.rounds
    )
    kept = measure.compared(found)
    result = {
        "benchmark": "step_time",
        "unit": "images/s",
        "batch_size": BATCH_SIZE,
        "parameters": PARAMETERS,
        "rounds": args.rounds,
        "seconds": args.seconds,
        **measure.machine(),
        **kept,
        "fit_share_of_step": kept["rates"]["fit"]["median"] / kept["rates"]["step"]["median"],
        "command": f"python -m benchmarks.step_time --rounds {args.rounds} --seconds "
        f"{args.seconds:g}",
    }
    measure.report(result)
    print(f"  fit reaches {result['fit_share_of_step']:.1%} of the bare step")
    print(measure.write("step_time", result))


if __name__ == "__main__":
    main()
