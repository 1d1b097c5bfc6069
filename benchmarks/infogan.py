"""Images per second of one training step of the two-stage VAE's first stage, against the same in
PyTorch.

    python -m benchmarks.infogan [--rounds 5] [--seconds 5] [--no-compiled]

The InfoGAN-style net for 28x28 images and 64 latent dimensions (13,331,586 parameters): spectral
norm on the encoder, one power iteration a step; BatchNorm; Gaussian likelihood with a learned
gamma; Adam 1e-4; batch 100, float32. Each program has a process of its own, with freed memory kept;
they take turns (`benchmarks.contest`), and medians are compared. PyTorch runs eager (its default
Adam), eager with the fused Adam, and compiled with the fused Adam.
"""

import argparse
import functools
import math

import jax
import numpy as np
import optax

from benchmarks import contest, measure
from experiments.runner import command
from jaxvae import Batch, host, models, nets

BATCH_SIZE, LATENT_DIM, PARAMETERS = 100, 64, 13_331_586


def ours(x: np.ndarray):
    """Returns the jitted step on one batch, and its FLOPs as XLA counts them."""
    pair = nets.infogan(x.shape[1:], latent_dim=LATENT_DIM)
    vae = models.vae(*pair, latent_dim=LATENT_DIM, likelihood="gaussian", gamma="learned")
    advance, flops, params = measure.advance(vae, optax.adam(1e-4), Batch(jax.device_put(x)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PARAMETERS
    return advance, flops


def torch_step(x: np.ndarray, name: str):
    """Returns the same step in PyTorch, by one of its programs."""
    import torch
    from torch import nn
    from torch.nn import functional as F
    from torch.nn.utils.parametrizations import spectral_norm

    class View(nn.Module):
        def __init__(self, *shape):
            super().__init__()
            self.shape = shape

        def forward(self, x):
            return x.reshape(-1, *self.shape)

    class VAE(nn.Module):
        def __init__(self):
            super().__init__()
            bn1, bn2, leaky, relu = nn.BatchNorm1d, nn.BatchNorm2d, nn.LeakyReLU(0.2), nn.ReLU()
            self.encoder = nn.Sequential(
                spectral_norm(nn.Conv2d(1, 64, 4, 2, 1)),
                leaky,
                spectral_norm(nn.Conv2d(64, 128, 4, 2, 1)),
                bn2(128, momentum=0.001),
                leaky,
                nn.Flatten(),
                spectral_norm(nn.Linear(6272, 1024)),
                bn1(1024, momentum=0.001),
                leaky,
                spectral_norm(nn.Linear(1024, 2 * LATENT_DIM)),
            )
            self.decoder = nn.Sequential(
                nn.Linear(LATENT_DIM, 1024),
                bn1(1024, momentum=0.001),
                relu,
                nn.Linear(1024, 6272),
                bn1(6272, momentum=0.001),
                relu,
                View(128, 7, 7),
                nn.ConvTranspose2d(128, 64, 4, 2, 1),
                bn2(64, momentum=0.001),
                relu,
                nn.ConvTranspose2d(64, 1, 4, 2, 1),
                nn.Sigmoid(),
            )
            self.log_sd = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            mean, raw = self.encoder(x).chunk(2, dim=1)
            sd = 1e-6 + F.softplus(raw)
            z = mean + sd * torch.randn_like(mean)
            x_hat = self.decoder(z)
            rec = torch.sum(
                0.5 * ((x - x_hat) / self.log_sd.exp()).square()
                + self.log_sd
                + 0.5 * math.log(2 * math.pi)
            )
            kl = 0.5 * torch.sum(mean.square() + sd.square() - 1 - 2 * sd.log())
            return (rec + kl) / x.shape[0]

    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return measure.torch_step(VAE, x, name, learning_rate=1e-4, parameters=PARAMETERS)


def program(name: str, seconds: float) -> contest.Program:
    """Returns "step", ours, or one of PyTorch's programs."""
    host.keep_freed_memory()
    x = np.random.default_rng(0).random((BATCH_SIZE, 28, 28, 1), dtype=np.float32)
    if name == "step":
        step, flops = ours(x)
        return measure.program(step, BATCH_SIZE, seconds, flops=flops)
    return measure.program(torch_step(x, name), BATCH_SIZE, seconds)


@command
def main() -> None:
    """Measures what the options on the command line say, prints it and keeps it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="per program and round")
    parser.add_argument(
        "--compiled", action=argparse.BooleanOptionalAction, default=True, help="torch.compile too"
    )
    args = parser.parse_args()
    names = ["step", *measure.rivals(args.compiled)]
    found = contest.contest(
        {name: functools.partial(program, name, args.seconds) for name in names}, args.rounds
    )
    result = {
        "benchmark": "infogan",
        "unit": "images/s",
        "batch_size": BATCH_SIZE,
        "parameters": PARAMETERS,
        "rounds": args.rounds,
        "seconds": args.seconds,
        **measure.machine(),
        **measure.compared(found),
        "command": f"python -m benchmarks.infogan --rounds {args.rounds} --seconds {args.seconds:g}"
        + ("" if args.compiled else " --no-compiled"),
    }
    measure.report(result)
    print(measure.write("infogan", result))


if __name__ == "__main__":
    main()
