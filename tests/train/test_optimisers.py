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
GRADS = {"w": jnp.array([0.5, 4.0])}


def test_one_optimiser_is_that_of_every_group_and_a_mapping_that_of_each():
    one, other = optax.sgd(0.1), optax.adam(0.1)
    assert optimisers(one, ("a", "b")) == {"a": one, "b": one}
    assert optimisers({"a": one, "b": other, "c": one}, ("b", "a")) == {"b": other, "a": one}
    with pytest.raises(UserError, match=r"given for \['a'\], but the objectives move \['a', 'b'\]"):
        optimisers({"a": one}, ("b", "a"))
    for wrong in (0.1, {"a": "adam"}):
        with pytest.raises(UserError, match=r"must be an optax transformation such as optax.adam"):
            check_optimisers(wrong)


def test_an_update_is_that_of_the_group_alone():
    tx = {"encoder": optax.sgd(0.1, momentum=0.5), "decoder": optax.adam(1.0)}
    states = init_optimisers(tx, PARAMS)
    params, opt_state = PARAMS["encoder"], states["encoder"]
    for _ in range(2):
        params, opt_state = update("encoder", tx["encoder"], GRADS, opt_state, params)
    # traces: g, then 1.5 g
    np.testing.assert_allclose(params["w"], [1.0 - 0.25 * 0.5, -2.0 - 0.25 * 4.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("init", "step"),
    [
        (optax.adam(1e-3), optax.sgd(1e-3, momentum=0.9)),
        (optax.sgd(1e-3), optax.adam(optax.cosine_decay_schedule(1e-3, 10))),
        ({"encoder": optax.sgd(1e-3), "decoder": optax.adam(1e-3)}, optax.sgd(1e-3)),
    ],
)
def test_a_state_of_another_optimiser_is_refused(init, step):
    batch = Batch(jnp.zeros((4, 3)))
    model = vae(nets.mlp((), 4), nets.mlp((), 3), latent_dim=2)
    state = jax.eval_shape(lambda rng: init_state(model, init, rng, batch), jax.random.key(0))
    group = "decoder" if isinstance(init, dict) else "encoder"
    with pytest.raises(UserError, match=f"state of '{group}' is that of another optimiser"):
        jax.eval_shape(make_train_step(model, step), state, batch)
    jax.eval_shape(make_train_step(model, init), state, batch)


def test_the_state_of_the_same_optimiser_at_another_rate_goes_on():
    batch = Batch(jnp.zeros((4, 3)))
    model = vae(nets.mlp((), 4), nets.mlp((), 3), latent_dim=2)
    start = init_state(model, optax.adam(1e-3), jax.random.key(0), batch)
    after, _ = make_train_step(model, optax.adam(1e-4))(start, batch)
    assert int(after.opt_state["encoder"][0].count) == 1
