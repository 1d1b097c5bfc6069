"""What breaks the training step of a model is caught, and the property named."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvae import nets, parallel
from jaxvae.models import vae
from jaxvae.testing import step as checks_of_the_step
from jaxvae.train.step import make_train_step as make_train_step_of
from jaxvae.types import Batch
from toys import BATCH, fails, toy


def test_a_step_that_moves_what_it_must_not(monkeypatch):
    def make_train_step(model, tx):
        sound = make_train_step_of(model, tx)

        def broken(train_state, batch):
            end, metrics = sound(train_state, batch)
            return end._replace(params=jax.tree.map(lambda w: w + 1e-3, end.params)), metrics

        return broken

    monkeypatch.setattr(checks_of_the_step, "make_train_step", make_train_step)
    fails(toy(), r"^wrt: objective 'loss' moved group 'spare', outside its wrt \('mean',\)")


def test_a_loss_that_draws_from_numpy():
    fails(
        toy(lambda each, *_: each * np.float32(np.random.uniform())),
        "^determinism: the step traced a second time",
    )


def test_a_loss_that_counts_its_calls():
    calls = []

    def value(each, *_):
        calls.append(None)
        return each + len(calls) / 10.0

    fails(toy(value), "^determinism: the step traced a second time differs")


def test_a_loss_that_changes_from_call_to_call_of_one_program():
    def value(each, *_):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return each * jax.pure_callback(lambda: np.float32(np.random.uniform()), shape)

    fails(toy(value), "^determinism: a second call of the compiled step")


def test_a_loss_that_knows_whether_it_is_compiled():
    def value(each, params, rng, batch):
        return each * (2.0 if isinstance(batch.x, jax.core.Tracer) else 1.0)

    fails(toy(value), "^jit: the compiled step differs")


def test_a_state_whose_type_is_settled_only_by_the_first_step():
    fails(
        toy(
            state={"seen": 0},
            next_state=lambda state: {"seen": state["seen"] + jnp.ones((), jnp.int32)},
        ),
        "^traces: 10 steps were traced 2 times",
    )


def test_a_model_that_diverges_within_ten_steps():
    fails(toy(), "^traces: metrics after 10 steps.*not finite", tx=optax.sgd(1e12))


def test_noise_that_every_device_draws_alike():
    def value(each, params, rng, batch):
        return each * jax.random.uniform(rng, each.shape)

    fails(toy(value), "^devices: pmap_step over 8 devices differs from one device")


def test_batch_norm_of_one_device():
    class Local(nn.Module):
        @nn.compact
        def __call__(self, x, *, cond=None, train):
            return nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))

    model = vae(nets.from_linen(Local()), nets.mlp((4,), 2), latent_dim=2, likelihood="gaussian")
    fails(model, "^devices: pmap_step over 8 devices differs from one device")


def test_a_coupled_loss_that_does_not_gather():
    fails(
        toy(lambda each, *_: jnp.square(jnp.mean(each)), coupled=True),
        "^devices: pmap_step over 8 devices differs",
    )


def test_a_mesh_that_changes_the_result(monkeypatch):
    def jit_step(step, mesh=None, *, donate=True):
        return jax.jit(lambda train_state, batch: step(train_state, Batch(batch.x + 1e-2)))

    monkeypatch.setattr(parallel, "jit_step", jit_step)
    fails(toy(), "^devices: jit_step over 8 devices differs from one device")


def test_a_batch_that_cannot_be_cut():
    fails(toy(), "^devices: a batch of 12 cannot be cut over the 8 devices", Batch(BATCH.x[:12]))


def test_a_state_that_a_checkpoint_confuses():
    state = {"a.b": jnp.ones(()), "a": {"b": jnp.zeros(())}}  # Orbax stores both under one name
    fails(toy(state=state), "^checkpoint: the restored state differs from the saved one")
