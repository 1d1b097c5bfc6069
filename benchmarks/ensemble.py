"""Soft-IntroVAE in two dimensions: steps/s of one training against PyTorch eager, and of K
trainings in one program.

    python -m benchmarks.ensemble [--rounds 5] [--steps 40] [--members 1 2 4] [--table]

The nets are those of the paper (2-256-256-256-256-4 and back, 397,830 parameters), batch 512, Adam
2e-4, float32, the released algorithm; the batch is drawn in the step (8 Gaussians). `one` is the
training step of one model, many of them in one compiled loop; `K/vmap` and `K/map` are
`train_ensemble` with K members, in steps of members per second, and `cost_per_member` is the time
of one step of one member in units of a step of `one`: at most 1 means that K trainings together
take no longer than K of them in turn. Each program has a process of its own; they take turns
(`benchmarks.contest`), and medians are compared.
"""

import argparse
import functools
import threading
import time

import jax
import optax

from benchmarks import contest, measure
from experiments.runner import command
from jaxvae import models, nets
from jaxvae.data import toy2d
from jaxvae.errors import check_count
from jaxvae.train.ensemble import train_ensemble
from jaxvae.train.step import init_state, make_train_step
from jaxvae.types import Batch

BATCH_SIZE = 512
HYPER = {"beta_rec": 0.2, "beta_kl": 0.3, "beta_neg": 0.9, "s": 0.5}
PARAMETERS = 397_830
DRAW = toy2d.toy("8gaussians").draw


def model(**hyper):
    """Returns a member's model, a Soft-IntroVAE of points in the plane."""
    return models.soft_intro_vae(
        nets.mlp((256,) * 4, 4), nets.mlp((256,) * 4, 2), latent_dim=2, **{**HYPER, **hyper}
    )


def one(steps: int):
    """Returns a run of `steps` training steps in one compiled loop, in steps/s."""
    soft, tx = model(), optax.adam(2e-4)
    state = init_state(soft, tx, jax.random.key(0), Batch(DRAW(jax.random.key(0), BATCH_SIZE)))
    step = make_train_step(soft, tx)

    def body(_, state):
        return step(state, Batch(DRAW(jax.random.fold_in(state.rng, ~state.step), BATCH_SIZE)))[0]

    many = jax.jit(lambda state: jax.lax.fori_loop(0, steps, body, state), donate_argnums=0)

    def run():
        nonlocal state
        start = time.perf_counter()
        state = jax.block_until_ready(many(state))
        return steps / (time.perf_counter() - start)

    return run


def members(k: int, mode: str, steps: int, turns: int):
    """Returns a run of `steps` steps of `train_ensemble` with k members, in steps of members per
    second, for at most `turns` turns.

    The ensemble trains in a thread of its own, which waits for its turn after each log line.
    """
    go, done = threading.Semaphore(0), threading.Semaphore(0)

    def on_log(step, train_state):
        jax.block_until_ready(train_state)
        done.release()
        go.acquire()

    failures: list[BaseException] = []

    def train():
        try:
            train_members()
        except BaseException as error:  # of the thread that waits, too
            failures.append(error)
            done.release()

    def train_members():
        train_ensemble(
            lambda **h: model(**h),
            optax.adam(2e-4),
            DRAW,
            seeds=range(k),
            steps=steps * (turns + 2),
            batch_size=BATCH_SIZE,
            members=mode,
            log_every=steps,
            steps_per_call=steps,
            on_log=on_log,
            mesh=jax.sharding.Mesh(jax.devices()[:1], ("one",)),
        )

    threading.Thread(target=train, daemon=True).start()

    def wait():
        done.acquire()
        if failures:
            raise failures[0]

    wait()  # compiled

    def run():
        start = time.perf_counter()
        go.release()
        wait()
        return k * steps / (time.perf_counter() - start)

    return run


def torch_eager(steps: int):
    """Returns a run of the same algorithm in PyTorch, eager, in steps/s."""
    import torch
    from torch import nn

    measure.torch_precision()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)

    def net(out):
        layers = [nn.Linear(2, 256), nn.ReLU()]
        for _ in range(3):
            layers += [nn.Linear(256, 256), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(256, out)).to(device)

    encoder, decoder = net(4), net(2)
    assert sum(p.numel() for m in (encoder, decoder) for p in m.parameters()) == PARAMETERS
    adams = [torch.optim.Adam(m.parameters(), lr=2e-4) for m in (encoder, decoder)]
    angle = torch.arange(8, device=device) * torch.pi / 4
    centres = 2 * torch.stack([angle.cos(), angle.sin()], 1)
    b_rec, b_kl, b_neg, s = (HYPER[name] for name in ("beta_rec", "beta_kl", "beta_neg", "s"))
    gamma_r = 1e-8

    def data():
        pick = torch.randint(8, (BATCH_SIZE,), device=device)
        return (centres[pick] + 0.02 * torch.randn(BATCH_SIZE, 2, device=device)) / 1.414

    def encode(x):
        return encoder(x).chunk(2, 1)

    def draw(q):
        return q[0] + (0.5 * q[1]).exp() * torch.randn_like(q[0])

    def kl(q):
        return -0.5 * (1 + q[1] - q[0].square() - q[1].exp()).sum(1)

    def error(a, b):
        return (a - b).square().sum(1)

    def step():
        x, n = data(), torch.randn(BATCH_SIZE, 2, device=device)
        encoder.requires_grad_(True)
        decoder.requires_grad_(False)
        fake, q = decoder(n), encode(x)
        z = draw(q)
        rec = decoder(z)
        pushed = 0
        for y in (rec, fake):
            q_y = encode(y.detach())
            minus_elbo = b_rec * error(y, decoder(draw(q_y))) + b_neg * kl(q_y)
            pushed = pushed + torch.exp(-2 * s * minus_elbo).mean()
        loss = s * (b_rec * error(x, rec).mean() + b_kl * kl(q).mean()) + 0.25 * pushed
        adams[0].zero_grad(set_to_none=True)
        loss.backward()
        adams[0].step()
        encoder.requires_grad_(False)
        decoder.requires_grad_(True)
        fake, rec = decoder(n), decoder(z.detach())
        pulled = 0
        for y in (rec, fake):
            q_y = encode(y)
            again = error(y.detach(), decoder(draw(q_y).detach())).mean()
            pulled = pulled + b_kl * kl(q_y).mean() + gamma_r * b_rec * again
        loss = s * (b_rec * error(x, rec).mean() + 0.5 * pulled)
        adams[1].zero_grad(set_to_none=True)
        loss.backward()
        adams[1].step()
        return loss

    def run():
        start = time.perf_counter()
        for _ in range(steps):
            loss = step()
        loss.item()
        return steps / (time.perf_counter() - start)

    return run


def program(name: str, steps: int, turns: int) -> contest.Program:
    """Returns "one", PyTorch's, or an ensemble by its members and its mode, such as "4/vmap"."""
    if name == "one":
        return contest.Program(one(steps))
    if name == "pytorch_eager":
        return contest.Program(torch_eager(steps))
    k, mode = name.split("/")
    return contest.Program(members(int(k), mode, steps, turns))


def table() -> str:
    """Returns the kept results as Markdown."""
    lines = [
        "| device | jaxvae, steps/s | PyTorch eager | ratio | members of an ensemble: cost of "
        "each against one alone |",
        "| --- | --- | --- | --- | --- |",
    ]
    notes: dict[str, int] = {}
    for result in measure.kept("ensemble"):
        alone = result.get("alone", {})
        marks = {
            name: measure.mark(notes, name, rate, alone.get(name))
            for name, rate in result["rates"].items()
        }
        one, eager = (
            f"{result['rates'][name]['median']:.1f}{marks[name]}"
            for name in ("one", "pytorch_eager")
        )
        costs = ", ".join(
            f"{name} {cost:.2f}{marks[name]}" for name, cost in result["cost_per_member"].items()
        )
        ratio = f"{result['speed_ratio']['pytorch_eager']:.2f}"
        lines.append(f"| {measure.where(result)} | {one} | {eager} | {ratio} | {costs} |")
    said = f"Soft-IntroVAE in two dimensions, batch {BATCH_SIZE}, float32; medians."
    return "\n".join([*lines, "", said]) + measure.foot(notes)


@command
def main() -> None:
    """Measures what the options on the command line say, prints it and keeps it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--table", action="store_true", help="print the kept results as Markdown, measure nothing"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40, help="per program and round")
    parser.add_argument(
        "--members",
        type=int,
        nargs="+",
        default=None,
        help="default: 1 2 4 on CPU, 1 4 16 64 elsewhere",
    )
    args = parser.parse_args()
    if args.table:
        print(table())
        return
    for name in ("rounds", "steps"):
        check_count(f"--{name}", getattr(args, name))
    cpu = jax.default_backend() == "cpu"
    counts = args.members or ([1, 2, 4] if cpu else [1, 4, 16, 64])
    modes = ("vmap", "map") if cpu else ("vmap",)
    names = ["one", "pytorch_eager", *(f"{k}/{mode}" for k in counts for mode in modes)]
    turns = 1 + contest.SOLO + args.rounds
    found = contest.contest(
        {name: functools.partial(program, name, args.steps, turns) for name in names}, args.rounds
    )
    rates = measure.summary(found.rates)
    alone = rates["one"]["median"]
    result = {
        "benchmark": "ensemble",
        "unit": "steps/s",
        "batch_size": BATCH_SIZE,
        "parameters": PARAMETERS,
        "rounds": args.rounds,
        "steps": args.steps,
        **measure.machine(),
        "rates": rates,
        "alone": found.solo,
        "speed_ratio": {"pytorch_eager": alone / rates["pytorch_eager"]["median"]},
        "cost_per_member": {
            name: alone / rate["median"] for name, rate in rates.items() if "/" in name
        },
        "command": f"python -m benchmarks.ensemble --rounds {args.rounds} --steps {args.steps}"
        + (f" --members {' '.join(map(str, args.members))}" if args.members else ""),
    }
    print(
        f"{result['device']}, steps/s, batch {BATCH_SIZE}: median (min to max) of {args.rounds} "
        "rounds"
    )
    for name, r in rates.items():
        print(f"  {name:<16} {r['median']:>8.2f}  ({r['min']:.2f} to {r['max']:.2f})")
    print(f"  one against PyTorch eager: {result['speed_ratio']['pytorch_eager']:.2f}x")
    for name, cost in result["cost_per_member"].items():
        print(f"  cost of each member, {name}: {cost:.2f} of one alone")
    print(measure.write("ensemble", result))


if __name__ == "__main__":
    main()
