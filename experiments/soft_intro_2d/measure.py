"""What is measured of a trained model in the plane, or of the data themselves, in both protocols."""

from collections.abc import Callable

import jax

from experiments.runner import Measure
from jaxvae import distributions
from jaxvae.data import toy2d
from jaxvae.metrics import grid2d
from jaxvae.models.introspective import squared_error
from jaxvae.types import Array, Model

RELEASED, RELEASED_GN = 5_000, 12_800   # samples, as in the released code
STANDARD, STANDARD_GN = 2**21, 2**16
PRECISION = "float32, highest"


def neg_elbo(model: Model, params, state) -> Callable[[Array], Array]:
    """Returns l(x) = L(x, D(mean)) + KL(q(z|x) || N(0, I)) [n], the energy of the grid-normalised ELBO."""

    def energy(x: Array) -> Array:
        q = model.encode(params, state, x)
        return squared_error(x, model.decode(params, state, q.mean).mean) + distributions.kl(q)

    return energy


def histograms(draw_real: Callable, draw_fake: Callable, half_range: float, seed: int, steps: int,
               smoke: bool = False) -> list[Measure]:
    """Returns KL and JSD between two samplers (rng, n) -> [n, 2], each in both protocols."""
    rng = jax.random.fold_in(jax.random.key(seed), 0x2D)
    sizes = {"released": RELEASED, "standard": grid2d.BLOCK if smoke else STANDARD}
    found = []
    for i, (metric, of_counts) in enumerate((("histogram_kl", grid2d.kl_of_counts), ("histogram_jsd", grid2d.jsd_of_counts))):
        for j, (protocol, n) in enumerate(sizes.items()):
            draws = []
            for k, draw in enumerate((draw_real, draw_fake)):
                key = jax.random.fold_in(rng, 4 * i + 2 * j + k)
                if protocol == "released":
                    count = jax.jit(lambda key, draw=draw, n=n: grid2d.counts(draw(key, n), half_range))
                else:
                    count = jax.jit(lambda key, draw=draw, n=n: grid2d.counts_of(draw, key, n, half_range))
                draws.append(count(key))
            found.append(Measure(metric, protocol, of_counts(*draws, half_range=half_range, convention=protocol), n, steps,
                                 PRECISION))
    return found


def floor(name: str, seed: int, smoke: bool = False) -> list[Measure]:
    """Returns what a perfect model would score: the data against the data."""
    toy = toy2d.toy(name)
    return histograms(toy.draw, toy.draw, toy.half_range, seed, 0, smoke)


def measure(name: str, model: Model, params, state, seed: int, steps: int, smoke: bool = False) -> list[Measure]:
    """Returns the six numbers of one trained model: KL, JSD and gnELBO in both protocols."""
    toy = toy2d.toy(name)
    found = histograms(toy.draw, lambda key, n: model.sample(params, state, key, n), toy.half_range, seed, steps, smoke)
    rng = jax.random.fold_in(jax.random.key(seed), 0x6E)
    energy = neg_elbo(model, params, state)
    for i, (protocol, n) in enumerate((("released", RELEASED_GN), ("standard", STANDARD_GN))):
        x = jax.jit(lambda key, n=n: toy.draw(key, n))(jax.random.fold_in(rng, i))
        value = grid2d.gn_elbo(energy, x, half_range=toy.half_range, convention=protocol, side=64 if smoke else grid2d.GRID)
        found.append(Measure("gn_elbo", protocol, value, n, steps, PRECISION))
    return found
