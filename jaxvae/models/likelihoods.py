"""The likelihoods that a decoder's output stands for: Bernoulli pixels, and Gaussian ones of a
fixed or a learned variance."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.distributions import Bernoulli, Normal
from jaxvae.errors import UserError, check_number, concrete, unknown
from jaxvae.types import Array, Likelihood, Params, Tree

LIKELIHOODS = ("bernoulli", "gaussian")


def likelihood(
    value: str | Likelihood, *, gamma: float | Literal["learned"] = 1.0, gamma_floor: float = 1e-8
) -> Likelihood:
    """Returns the `Likelihood` called `value`, or `value` itself if it is one.

    Args:
        value: "bernoulli" or "gaussian", or a `Likelihood`, which brings its own scale.
        gamma: of "gaussian": its variance, > 0, or "learned".
        gamma_floor: of a learned gamma, > 0.

    Raises:
        UserError: for an unknown name, a gamma out of range, and a gamma of anything but
            "gaussian".
    """
    if callable(value) and not isinstance(value, Likelihood):
        raise UserError(
            "likelihood must be a name or a Likelihood(build, init), build(params, output) -> "
            "distribution, not a function or a class."
        )
    if not isinstance(value, Likelihood) and value not in LIKELIHOODS:
        raise unknown("likelihood", value, LIKELIHOODS)
    if isinstance(gamma, str) and gamma != "learned":
        raise unknown("gamma", gamma, ("learned",))
    given = isinstance(gamma, str) or (concrete(gamma) and gamma != 1.0)
    if given and value != "gaussian":
        raise UserError(
            "gamma is the variance of a Gaussian decoder: use likelihood='gaussian' with it."
        )
    if not isinstance(gamma, str):
        check_number("gamma", gamma, above=0.0)
    check_number("gamma_floor", gamma_floor, above=0.0)
    if isinstance(value, Likelihood):
        return value
    if value == "bernoulli":
        return bernoulli()
    return learned_gaussian(gamma_floor) if isinstance(gamma, str) else gaussian(gamma)


def bernoulli() -> Likelihood:
    """Returns the likelihood of pixels in [0, 1] whose decoder gives logits."""
    return Likelihood(build=lambda params, logits: Bernoulli(logits), check=_check_pixels)


def gaussian(gamma: float | Array = 1.0) -> Likelihood:
    """Returns N(x_hat, gamma I), whose decoder gives x_hat; gamma may be traced."""

    def build(params: Tree, x_hat: Array) -> Normal:
        return Normal(x_hat, jnp.log(jnp.asarray(gamma, jnp.float32)))

    return Likelihood(build)


def learned_gaussian(floor: float | Array = 1e-8) -> Likelihood:
    """Returns N(x_hat, gamma I) with gamma = floor + exp(2 log_sd), one parameter that starts at 0.

    It reports `gamma`, and `gamma_floored`: 1 within a factor 2 of the floor, else 0.
    """

    def gamma_of(params: Tree) -> Array:
        return floor + jnp.exp(2.0 * params["log_sd"])

    def metrics(params: Tree) -> dict[str, Array]:
        gamma = gamma_of(params)
        return {"gamma": gamma, "gamma_floored": (gamma < 2.0 * floor).astype(jnp.float32)}

    return Likelihood(
        build=lambda params, x_hat: Normal(x_hat, jnp.log(gamma_of(params))),
        init=lambda: {"log_sd": jnp.zeros(())},
        metrics=metrics,
    )


def groups(likelihood: Likelihood) -> tuple[str, ...]:
    """Returns the parameter groups of a likelihood: "likelihood", or none."""
    return () if likelihood.init is None else ("likelihood",)


def report(likelihood: Likelihood, params: Params) -> dict[str, Array]:
    """Returns what a likelihood reports of its parameters among a model's, by name."""
    return {} if likelihood.metrics is None else likelihood.metrics(params.get("likelihood"))


def check_float(x: Array) -> None:
    """Raises `UserError` for data of integers."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(
            f"x must be floating point, not {x.dtype}: scale bytes with x.astype('float32') / 255."
        )


def check_data(x: Array, likelihood: Likelihood) -> None:
    """Raises `UserError` for data that no such likelihood fits: integers, values that are not
    finite, and, of concrete data, what the likelihood's own `check` refuses."""
    if not hasattr(x, "dtype"):
        raise UserError(f"x must be an array [batch, ...], not {type(x).__name__}.")
    if x.ndim < 2 or 0 in x.shape:
        raise UserError(f"x must be [batch, ...] with no empty axis, not shape {x.shape}.")
    check_float(x)
    if not concrete(x) or isinstance(x, jax.ShapeDtypeStruct):
        return
    if not np.isfinite(np.asarray(x)).all():
        raise UserError("x holds values that are not finite: clean the data first.")
    if likelihood.check is not None:
        likelihood.check(x)


def _check_pixels(x: Array) -> None:
    values = np.asarray(x)
    low, high = float(values.min()), float(values.max())
    if low < 0.0 or high > 1.0:
        raise UserError(
            f"a Bernoulli likelihood needs pixels in [0, 1]; these run from {low:g} to {high:g}. "
            "Scale them (bytes: divide by 255), or use a Gaussian likelihood."
        )
