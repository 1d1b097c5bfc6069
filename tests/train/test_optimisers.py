"""An optimiser for each parameter group: updates by hand, and states that are another's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae import nets
from jaxvae.errors import UserError
from jaxvae.models import vae
from jaxvae.train import init_state, make_train_step
from jaxvae.train.optimisers import check_optimisers, init_optimisers, optimisers, update
from jaxvae.types import Batch

PARAMS = {"encoder": {"w": jnp.array([1.0, -2.0])}, "decoder": {"w": jnp.array([3.0])}}


def test_one_optimiser_is_that_of_every_group_and_a_mapping_that_of_each():
    one, other = optax.sgd(0.1), optax.adam(0.1)
    assert optimisers(one, ("a", "b")) == {"a": one, "b": one}
    assert optimisers({"a": one, "b": other, "c": one}, ("b", "a")) == {"b": other, "a": one}
    with pytest.raises(UserError, match=r"given for \['a'\], but the objectives move \['a', 'b'\]"):
        optimisers({"a": one}, ("b", "a"))
    for wrong in (0.1, {"a": "adam"}):
        with pytest.raises(UserError, match=r"must be an optax transformation such as optax.adam"):
            check_optimisers(wrong)


def test_updates_by_hand():
    tx = {"encoder": optax.sgd(0.1, momentum=0.5), "decoder": optax.adam(1.0)}
    opt_state, params = init_optimisers(tx, PARAMS), dict(PARAMS)
    grads = {"encoder": {"w": jnp.array([0.5, 4.0])}, "decoder": {"w": jnp.array([7.0])}}
    for _ in range(2):
        for name in tx:
            params[name], opt_state[name] = update(
                name, tx[name], grads[name], opt_state[name], params[name]
            )
    # traces: g, then 1.5 g; Adam's first steps are of its rate, whatever the gradient
    np.testing.assert_allclose(
        params["encoder"]["w"], [1.0 - 0.25 * 0.5, -2.0 - 0.25 * 4.0], rtol=1e-6
    )
    np.testing.assert_allclose(params["decoder"]["w"], [3.0 - 2.0], rtol=1e-4)
    assert int(opt_state["decoder"][0].count) == 2


def begun(init):
    """Returns a small VAE, a batch, and the shapes of its state at step 0."""
    batch = Batch(jnp.zeros((4, 3)))
    model = vae(nets.mlp((), 4), nets.mlp((), 3), latent_dim=2)
    state = jax.eval_shape(lambda rng: init_state(model, init, rng, batch), jax.random.key(0))
    return model, batch, state


ADAM, SGD, MOMENTUM = optax.adam(1e-3), optax.sgd(1e-3), optax.sgd(1e-3, momentum=0.9)


@pytest.mark.parametrize(
    ("init", "step", "group"),
    [
        (ADAM, MOMENTUM, "encoder"),
        (SGD, ADAM, "encoder"),
        (ADAM, optax.adam(optax.cosine_decay_schedule(1e-3, 10)), "encoder"),
        ({"encoder": SGD, "decoder": SGD}, {"encoder": SGD, "decoder": ADAM}, "decoder"),
    ],
)
def test_a_state_that_the_optimiser_cannot_use_is_refused_by_its_group(init, step, group):
    model, batch, state = begun(init)
    with pytest.raises(UserError, match=f"state of '{group}' is not of the form .* init_state"):
        jax.eval_shape(make_train_step(model, step), state, batch)


def test_a_state_of_other_shapes_or_of_no_such_group_is_refused():
    model, batch, state = begun(ADAM)
    decoder = state.opt_state["decoder"]
    for wrong in ({"encoder": decoder, "decoder": decoder}, {"decoder": decoder}):
        with pytest.raises(UserError, match="state of 'encoder' is not of the form"):
            jax.eval_shape(make_train_step(model, ADAM), state._replace(opt_state=wrong), batch)
    broken = optax.GradientTransformation(ADAM.init, lambda *_: {}["a mistake of its own"])
    with pytest.raises(KeyError, match="a mistake of its own"):
        jax.eval_shape(make_train_step(model, broken), state, batch)


@pytest.mark.parametrize(
    ("init", "step"),
    [
        (ADAM, optax.adam(1e-4)),
        (optax.adam(optax.cosine_decay_schedule(1e-3, 10)), ADAM),  # goes on at one rate
        (MOMENTUM, SGD),
    ],
)
def test_a_state_that_the_optimiser_can_use_goes_on(init, step):
    model, batch, state = begun(init)
    jax.eval_shape(make_train_step(model, step), state, batch)
