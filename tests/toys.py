"""A model of the mean of noisy points, of which a test replaces any part by a broken one."""

import jax.numpy as jnp
import pytest

from jaxvae import noise
from jaxvae.testing import check_model
from jaxvae.types import Aux, Batch, Model, Objective

SIZE = 16
BATCH = Batch(jnp.linspace(-1.0, 1.0, SIZE * 2).reshape(SIZE, 2))


def toy(
    value=None,
    *,
    init=None,
    metrics=None,
    wrt=("mean",),
    state=None,
    next_state=None,
    name="loss",
    coupled=False,
    every=1,
    phase=0,
    **functions,
) -> Model:
    """Returns a model of the mean of noisy points, where any part can be replaced by a broken
    one."""

    def start(rng, batch):
        return {
            "mean": {"w": jnp.zeros(2)},
            "spare": {"w": jnp.zeros(2)},
        }, {} if state is None else state

    def loss(params, state, rng, batch, step, carry):
        noisy = batch.x + noise.normal(rng, batch.x.shape)
        each = jnp.sum(jnp.square(noisy - params["mean"]["w"]), axis=-1)
        each = each if value is None else value(each, params, rng, batch)
        state = state if next_state is None else next_state(state)
        return each, Aux(state, {} if metrics is None else metrics(each))

    return Model(init or start, (Objective(wrt, loss, coupled, every, phase, name),), **functions)


def fails(model: Model, message: str, batch: Batch = BATCH, **options) -> None:
    with pytest.raises(AssertionError, match=message):
        check_model(model, batch, **options)
