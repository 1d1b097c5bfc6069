"""Images per second, and peak memory, of one Soft-IntroVAE step on CIFAR-10, against the same in
PyTorch.

    python -m benchmarks.soft_intro [--rounds 5] [--seconds 5] [--shrink 1] [--no-compiled]

The published residual nets for 32x32x3 images and 128 latent dimensions (5,765,379 parameters),
BatchNorm, both losses as released, Adam 2e-4, batch 32, float32: an encoder step and a decoder step.
Each program has a process of its own, with freed memory kept; they take turns (`benchmarks.contest`),
and medians are compared. PyTorch runs eager (its default Adam), eager with the fused Adam, and with
compiled nets and the fused Adam.
"""

import argparse
import functools
import itertools
import math

import jax
import numpy as np
import optax

from benchmarks import contest, measure
from experiments.runner import command
from jaxvae import Batch, host, models, nets
from jaxvae.nets.intro import CHANNELS

BATCH_SIZE, LATENT_DIM, BETA_NEG, SHAPE = 32, 128, 256.0, (32, 32, 3)
PARAMETERS = 5_765_379


def model(shrink: int):
    """Returns the model, with a share of the published channels."""
    pair = nets.intro(SHAPE, latent_dim=LATENT_DIM, shrink=shrink)
    return models.soft_intro_vae(*pair, latent_dim=LATENT_DIM, beta_neg=BETA_NEG)


def ours(x: np.ndarray, shrink: int):
    """Returns a step on one batch, which gives its metrics, and its FLOPs as XLA counts them."""
    advance, flops, _ = measure.advance(model(shrink), optax.adam(2e-4), Batch(jax.device_put(x)))
    return advance, flops


def torch_nets(shrink: int):
    """Returns encoder and decoder in PyTorch."""
    import torch
    from torch import nn

    leaky, wide = nn.LeakyReLU(0.2), [max(1, c // shrink) for c in CHANNELS[SHAPE[0]]]
    side = SHAPE[0] // 2 ** len(wide)

    def conv(a, b, k):
        return nn.Conv2d(a, b, k, padding=k // 2, bias=False)

    class Block(nn.Module):
        def __init__(self, a, b):
            super().__init__()
            norms = nn.BatchNorm2d(b), nn.BatchNorm2d(b)
            self.body = nn.Sequential(conv(a, b, 3), norms[0], leaky, conv(b, b, 3), norms[1])
            self.shortcut = nn.Identity() if a == b else conv(a, b, 1)

        def forward(self, x):
            return leaky(self.body(x) + self.shortcut(x))

    pairs = list(itertools.pairwise(wide))
    down = [conv(SHAPE[2], wide[0], 5), nn.BatchNorm2d(wide[0]), leaky, nn.AvgPool2d(2)]
    for a, b in pairs:
        down += [Block(a, b), nn.AvgPool2d(2)]
    flat = wide[-1] * side**2
    down += [Block(wide[-1], wide[-1]), nn.Flatten(), nn.Linear(flat, 2 * LATENT_DIM)]
    up = [nn.Linear(LATENT_DIM, flat), nn.ReLU(), nn.Unflatten(1, (wide[-1], side, side))]
    for a, b in [(wide[-1], wide[-1]), *((b, a) for a, b in reversed(pairs))]:
        up += [Block(a, b), nn.Upsample(scale_factor=2)]
    up += [Block(wide[0], wide[0]), nn.Conv2d(wide[0], SHAPE[2], 5, padding=2)]
    torch.manual_seed(0)
    return nn.Sequential(*down), nn.Sequential(*up)


def torch_step(x: np.ndarray, shrink: int, *, fused: bool, compiled: bool):
    """Returns the same step in PyTorch, which gives the decoder's loss."""
    import torch

    measure.torch_precision()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pair = [net.to(device) for net in torch_nets(shrink)]
    have = sum(p.numel() for net in pair for p in net.parameters())
    assert have == (PARAMETERS if shrink == 1 else parameters(shrink)), have
    adams = [torch.optim.Adam(net.parameters(), lr=2e-4, fused=fused or None) for net in pair]
    E, D = (torch.compile(net) for net in pair) if compiled else pair
    x = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).to(device)
    s, gamma_r = 1.0 / math.prod(SHAPE), 1e-8

    def encode(x):
        return E(x).chunk(2, 1)

    def draw(q):
        return q[0] + (0.5 * q[1]).exp() * torch.randn_like(q[0])

    def kl(q):
        return -0.5 * (1 + q[1] - q[0].square() - q[1].exp()).sum(1)

    def error(a, b):
        return (a - b).square().sum((1, 2, 3))

    def move(which, loss):
        adams[which].zero_grad(set_to_none=True)
        loss.backward()
        adams[which].step()

    def turn(which):
        for i, net in enumerate(pair):
            net.requires_grad_(i == which)

    def step():
        turn(0)
        n = torch.randn(len(x), LATENT_DIM, device=device)
        fake, q = D(n), encode(x)
        z = draw(q)
        rec, pushed = D(z), 0
        for y in (rec, fake):
            q_y = encode(y.detach())
            pushed += torch.exp(-2 * s * (error(y, D(draw(q_y))) + BETA_NEG * kl(q_y))).mean()
        move(0, s * (error(x, rec).mean() + kl(q).mean()) + 0.25 * pushed)
        turn(1)
        fake, rec, pulled = D(n), D(z.detach()), 0
        for y in (rec, fake):
            q_y = encode(y)
            again = D(draw(q_y).detach())
            pulled += kl(q_y).mean() + gamma_r * error(y.detach(), again).mean()
        loss = s * (error(x, rec).mean() + 0.5 * pulled)
        move(1, loss)
        return loss

    return step


def parameters(shrink: int) -> int:
    """Returns how many parameters both nets have."""
    x = jax.ShapeDtypeStruct((2, *SHAPE), np.float32)
    params, _ = jax.eval_shape(model(shrink).init, jax.random.key(0), Batch(x))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def program(name: str, shrink: int, seconds: float) -> contest.Program:
    """Returns "step", ours, or one of PyTorch's programs."""
    host.keep_freed_memory()
    x = np.random.default_rng(0).random((BATCH_SIZE, *SHAPE), dtype=np.float32)
    if name == "step":
        step, flops = ours(x, shrink)
        return measure.program(step, BATCH_SIZE, seconds, flops=flops)
    fused, compiled = measure.PYTORCH[name]
    step = torch_step(x, shrink, fused=fused, compiled=compiled)
    return measure.program(step, BATCH_SIZE, seconds)


@command
def main(argv: list[str] | None = None) -> None:
    """Measures what the options on the command line say, prints it and keeps it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="per program and round")
    parser.add_argument("--shrink", type=int, default=1, help="divides the channels")
    parser.add_argument(
        "--compiled", action=argparse.BooleanOptionalAction, default=True, help="torch.compile too"
    )
    args = parser.parse_args(argv)
    names = ["step", *measure.rivals(args.compiled)]
    found = contest.contest(
        {name: functools.partial(program, name, args.shrink, args.seconds) for name in names},
        args.rounds,
    )
    result = {
        "benchmark": "soft_intro",
        "unit": "images/s",
        "batch_size": BATCH_SIZE,
        "parameters": parameters(args.shrink),
        "shrink": args.shrink,
        "rounds": args.rounds,
        "seconds": args.seconds,
        **measure.machine(),
        **measure.compared(found),
        "command": f"python -m benchmarks.soft_intro --rounds {args.rounds} --seconds "
        f"{args.seconds:g} --shrink {args.shrink}" + ("" if args.compiled else " --no-compiled"),
    }
    measure.report(result)
    print(measure.write("soft_intro", result))


if __name__ == "__main__":
    main()
