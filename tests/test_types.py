"""The data that functions hand on, and what a model may leave out."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.types import Aux, Batch, Likelihood, Mean, Model, Net, Objective, Terms


def test_means_of_parts_add_up_to_the_mean_of_all():
    x = np.array([3.0, 5.0, 10.0], np.float32)
    parts = [Mean(jnp.sum(part), jnp.asarray(len(part))) for part in (x[:1], x[1:])]
    together = jax.tree.map(lambda a, b: a + b, *parts)
    assert [float(part) for part in parts] == [3.0, 7.5]
    assert float(together) == 6.0


def test_the_mean_of_nothing_is_not_a_number():
    assert np.isnan(float(Mean(jnp.zeros(()), jnp.zeros(()))))


def test_what_is_handed_on_is_data_that_jax_can_take_apart():
    terms = Terms(jnp.ones(2), jnp.zeros(2), {"part": jnp.ones(2)})
    assert len(jax.tree.leaves(terms)) == 3
    assert len(jax.tree.leaves(Aux({"seen": jnp.zeros(())}, {"rec": jnp.ones(2)}))) == 2
    assert [x.shape for x in jax.tree.leaves(Batch(jnp.zeros((4, 3))))] == [(4, 3)]  # no condition


def test_all_but_init_may_be_left_out():
    """A GAN does not encode; a composed model has nothing to train."""
    model = Model(init=lambda rng, batch: ({}, {}))
    functions = (
        "encode",
        "decode",
        "terms",
        "sample",
        "log_prob",
        "log_weight",
        "moments",
        "prior",
    )
    assert all(getattr(model, name) is None for name in functions)
    assert (model.objectives, model.watch, model.stats) == ((), (), "running")
    loss = Objective(("encoder",), lambda *args: None)
    assert (loss.coupled, loss.every, loss.phase, loss.name) == (False, 1, 0, "loss")
    assert Net(lambda *args: None, lambda *args: None).moments is None
    likelihood = Likelihood(lambda params, output: None)
    assert (likelihood.init, likelihood.check, likelihood.metrics) == (None, None, None)
