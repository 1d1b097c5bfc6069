"""What the AR(1) posterior costs: one training step beside the Normal's, and three ways to draw its
samples.

    python -m benchmarks.ar1 [--rounds 9] [--seconds 1]

The step is that of `step_time`, with latent dimensions 10, 64 and 512. Samples [128, D], value and
gradient, by `lax.scan` over D, by `lax.associative_scan`, by a product with the [D, D] table of
powers of rho made for each example, and by doubling. `arithmetic.recursion` scans on CPU and
doubles elsewhere.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from benchmarks.step_time import BATCH_SIZE, ours
from jaxvae import models, nets
from jaxvae.arithmetic import recursion_by_doubling, recursion_by_scan

DIMS = (10, 64, 512)


def by_associative_scan(rho, e):
    """Returns `recursion` by pairs (a, b) of y -> a y + b, composed in a tree."""

    def compose(first, second):
        return first[0] * second[0], second[0] * first[1] + second[1]

    return jax.lax.associative_scan(compose, (jnp.broadcast_to(rho, e.shape), e), axis=1)[1]


def by_matrix(rho, e):
    """Returns the same: a lower triangular matrix rho^(i-j) for each example."""
    i = jnp.arange(e.shape[1])
    lag = i[:, None] - i
    size = jnp.exp(
        jnp.maximum(lag, 0).astype(rho.dtype)
        * jnp.log(jnp.maximum(jnp.abs(rho), 1e-30))[:, :, None]
    )
    sign = jnp.where((rho < 0)[:, :, None] & (lag % 2 == 1), -1.0, 1.0)
    return jnp.einsum("bij,bj->bi", jnp.where(lag >= 0, sign * size, 0.0), e)


SAMPLERS = {
    "scan": recursion_by_scan,
    "associative_scan": by_associative_scan,
    "matrix": by_matrix,
    "doubling": recursion_by_doubling,
}


def step(posterior: str, latent_dim: int, seconds: float):
    """Returns a run of the jitted step on one batch: images/s."""
    heads = (latent_dim, latent_dim) if posterior == "normal" else (latent_dim, 1, 1)
    encoder = nets.mlp((400,), sum(heads), heads=heads, init="xavier")
    model = models.vae(
        encoder, nets.mlp((400,), (784,), init="xavier"), latent_dim=latent_dim, posterior=posterior
    )
    advance = ours(np.random.default_rng(0).random((BATCH_SIZE, 784), np.float32), model)
    return lambda: measure.rate(advance, measure.wait_for, BATCH_SIZE, seconds)


def sampler(draw, latent_dim: int, seconds: float):
    """Returns a run of a sampler's value and gradient: draws [D] per second."""
    rho = jnp.tanh(jax.random.normal(jax.random.key(0), (BATCH_SIZE, 1)))
    e = jax.random.normal(jax.random.key(1), (BATCH_SIZE, latent_dim))
    compiled = jax.jit(jax.value_and_grad(lambda rho, e: jnp.sum(jnp.square(draw(rho, e))), (0, 1)))
    return lambda: measure.rate(
        lambda: compiled(rho, e), jax.block_until_ready, BATCH_SIZE, seconds
    )


def main() -> None:
    """Measures what the options on the command line say, prints it and keeps it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="per program and round")
    args = parser.parse_args()
    result = {
        "benchmark": "ar1",
        "batch_size": BATCH_SIZE,
        "rounds": args.rounds,
        "seconds": args.seconds,
        **measure.machine(),
        "step": {},
        "cost_of_ar1": {},
        "samplers": {},
        "unit": "examples/s",
    }
    for d in DIMS:
        runs = {posterior: step(posterior, d, args.seconds) for posterior in ("normal", "ar1")}
        measure.alternate(runs, 1)  # warm up
        rates = measure.alternate(runs, args.rounds)
        result["step"][d] = measure.summary(rates)
        # by round, as both of a round share whatever else the machine does
        result["cost_of_ar1"][d] = float(np.median(np.divide(rates["normal"], rates["ar1"])))
        draws = {
            name: sampler(draw, d, args.seconds / 4)
            for name, draw in SAMPLERS.items()
            if name != "matrix" or d <= 64
        }  # at 512 it would hold 134 MB
        measure.alternate(draws, 1)
        result["samplers"][d] = measure.summary(measure.alternate(draws, args.rounds))
        found = result["samplers"][d]
        print(
            f"D = {d}: the AR(1) step takes {result['cost_of_ar1'][d]:.3f} of the Normal's; "
            "samples/s: "
            + ", ".join(f"{name} {rate['median']:,.0f}" for name, rate in found.items()),
            flush=True,
        )
    result["command"] = (
        f"python -m benchmarks.ar1 --rounds {args.rounds} --seconds {args.seconds:g}"
    )
    print(measure.write("ar1", result))


if __name__ == "__main__":
    main()
