"""The preset `vae_gan`: its options reach the model, and LPIPS is added by its weights."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.errors import UserError
from jaxvae.metrics import lpips
from jaxvae.models.introspective import squared_error
from jaxvae.presets import parts
from jaxvae.presets.vae_gan import VAEGAN, build, last_kernel, with_lpips
from jaxvae.types import Batch

OPTIONS = {"workdir": Path("run"), "net": "mlp", "hidden": (3,), "latent_dim": 2}


def test_options_reach_the_model():
    chosen = {
        "error": "squared",
        "beta": 0.5,
        "beta_warmup": 10,
        "disc_weight": 2.0,
        "disc_start": 5,
    }
    config = VAEGAN(
        **OPTIONS, **chosen, disc_channels=(2,), disc_learning_rate=0.5, learning_rate=0.1
    )
    config.check()
    system = build(config, (6, 6, 1), None)
    model, batch = system.model, Batch(jnp.full((4, 6, 6, 1), 0.5))

    @jax.jit
    def loss(step):
        params, state = model.init(jax.random.key(0), batch)
        args = (params, state, jax.random.key(1), batch, step, None)
        return params["discriminator"], *model.objectives[0].loss(*args)

    for step, beta, weight in ((4, 0.2, 0.0), (5, 0.25, 2.0)):
        judge, value, aux = loss(jnp.int32(step))
        found = {name: np.asarray(v) for name, v in aux.metrics.items()}
        want = found["squared_error"] + beta * found["kl"] + weight * found["adversary"]
        np.testing.assert_allclose(value, want, rtol=1e-5)
        assert "error" not in found and found["adversary"].any() == (step == 5)
    assert judge["Conv_0"]["kernel"].shape == (4, 4, 1, 2)
    one = {"w": jnp.ones(1)}
    with jax.numpy_dtype_promotion("standard"):
        moves = [
            system.tx[name].update(one, system.tx[name].init(one), one)[0]["w"].item()
            for name in ("encoder", "discriminator")
        ]
    np.testing.assert_allclose(moves, (-0.1, -0.5), rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "last", "outputs"),
    [
        ({}, "Dense_1/kernel", 28 * 28),
        ({"net": "conv", "channels": (2, 3)}, "Conv_1/kernel", 1),
        ({"net": "conv", "channels": (2, 3), "conditional": True}, "Conv_1/kernel", 1),
        ({"net": "intro", "channels": (2, 3), "hidden": None}, "Conv_7/kernel", 1),
        ({"net": "infogan", "hidden": None}, "Conv_1/kernel", 1),
    ],
    ids=["mlp", "conv", "conditional", "intro", "infogan"],
)
def test_the_last_layer_of_each_net(options, last, outputs):
    """It has as many outputs as the image has channels, or numbers; the metric says that it is used."""
    classes = 3 if options.get("conditional") else None
    shape = (28, 28, 1)
    config = VAEGAN(**{**OPTIONS, **options}, disc_channels=(2,), disc_adaptive=True)
    _, decoder = parts.nets_of(config, shape, classes)
    assert last_kernel(config, decoder, classes) == last
    model = build(config, shape, classes).model
    cond = None if classes is None else jnp.zeros((2, classes))
    batch = Batch(jnp.zeros((2, *shape)), cond)

    def run(rng):
        params, state = model.init(rng, batch)
        _, aux = model.objectives[0].loss(params, state, rng, batch, jnp.int32(0), None)
        layer = params["decoder"]
        for name in last.split("/"):
            layer = layer[name]
        return layer, aux.metrics["adversary_weight"]

    layer, weight = jax.eval_shape(run, jax.random.key(0))
    assert layer.shape[-1] == outputs and weight.shape == ()


def test_lpips_is_added_in_the_scale_of_a_sum(monkeypatch):
    calls = []

    def distance(weights, x, y, *, net):
        calls.append((weights, x.shape, net))
        return jnp.full(len(x), 0.25)

    monkeypatch.setattr(lpips, "distance", distance)
    monkeypatch.setattr(lpips, "load", lambda net: f"weights of {net}")
    error = with_lpips(squared_error, "vgg", 2.0)
    x = jnp.ones((3, 4, 5, 1))
    np.testing.assert_allclose(error(x, 0.0 * x), np.full(3, 20.0 + 2.0 * 20 * 0.25))
    assert calls == [("weights of vgg", (3, 4, 5, 3), "vgg")]


def test_a_model_is_built_without_weights_and_trained_with_them(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXVAE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    config = VAEGAN(**OPTIONS, perceptual="squeeze", disc_channels=(2,))
    config.check()
    model, batch = build(config, (18, 18, 1), None).model, Batch(jnp.zeros((2, 18, 18, 1)))
    params, state = jax.eval_shape(model.init, jax.random.key(0), batch)
    with pytest.raises(UserError, match="squeezenet"):
        jax.eval_shape(
            lambda p, s: model.objectives[0].loss(
                p, s, jax.random.key(1), batch, jnp.int32(0), None
            ),
            params,
            state,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"perceptual_weight": 2.0}, "leave out --perceptual-weight"),
        ({"likelihood": "bernoulli"}, "leave out --likelihood"),
        ({"gamma": "learned"}, "leave out --gamma"),
        ({"pixels": "binarised", "free_bits": 0.1}, "leave out --free-bits, --pixels"),
        ({"disc_weight": -1.0}, "--disc-weight must be at least 0"),
        ({"disc_start": -1}, "--disc-start must be at least 0"),
    ],
)
def test_options_in_vain_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        VAEGAN(**OPTIONS, **options).check()


def test_images_that_are_too_small_are_refused():
    with pytest.raises(UserError, match="at least 31 pixels a side"):
        build(VAEGAN(**OPTIONS, perceptual="alex"), (28, 28, 1), None)
    with pytest.raises(UserError, match="needs images"):
        build(VAEGAN(**OPTIONS), (2,), None)
