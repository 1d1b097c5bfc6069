"""The VAE-GAN: both losses by hand, when the discriminator joins in, and what each objective moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import nets
from jaxvae.errors import UserError
from jaxvae.models import vae_gan
from jaxvae.models.introspective import squared_error
from jaxvae.models.vae_gan import absolute_error, hinge
from jaxvae.types import Batch, Net

BATCH = Batch(jnp.asarray([[0.9, 0.1], [0.2, 0.6], [1.0, 0.0]]))
START = 4


def fixed(function, **start):
    def apply(params, state, x, *, cond=None, rng=None, train):
        return function(params, x), state

    params = {name: jnp.float32(value) for name, value in start.items()}
    return Net(lambda rng, x, cond=None: (params, {}), apply)


def by_hand(**options):
    """Returns q(z|x) = N(a x_1, e^-40), x_hat = (z, w), and logits s x_1 and s x_2 - 1 of two patches."""

    def up(p, x):
        return jnp.stack([p["a"] * x[:, 0], jnp.full(len(x), -40.0)], axis=1)

    def down(p, z):
        return jnp.concatenate([z, jnp.broadcast_to(p["w"], z.shape)], axis=1)

    def judge(p, x):
        return p["s"] * x - jnp.asarray([0.0, 1.0])

    trio = fixed(up, a=0.5), fixed(down, w=0.3), fixed(judge, s=2.0)
    options = {"latent_dim": 1, "beta": 0.01, "weight": 3.0, "start": START, **options}
    return vae_gan(*trio, **options)


def walk(model, step):
    """Returns losses, metrics and gradients of both objectives."""

    @jax.jit
    def run(step):
        params, state = model.init(jax.random.key(0), BATCH)
        carry, found = None, []
        for objective in model.objectives:

            def mean(moved, objective=objective, carry=carry):
                joined = {**params, **moved}
                loss, aux = objective.loss(joined, state, jax.random.key(1), BATCH, step, carry)
                return jnp.mean(loss), (loss, aux)

            moved = {name: params[name] for name in objective.wrt}
            (_, (loss, aux)), grads = jax.value_and_grad(mean, has_aux=True)(moved)
            found.append((loss, aux.metrics, grads))
            carry = aux.carry
        return found

    return run(jnp.int32(step))


def test_both_losses_and_their_gradients_by_hand():
    (loss, metrics, grads), (judged, of_judge, of_s) = walk(by_hand(), START)
    x = np.float64(BATCH.x)
    x_hat = np.stack([0.5 * x[:, 0], np.full(3, 0.3)], axis=1)
    error = np.abs(x - x_hat).sum(axis=1)  # 0.65, 0.4, 0.8
    np.testing.assert_allclose(error, [0.65, 0.4, 0.8])
    kl = 0.5 * (x_hat[:, 0] ** 2 + np.exp(-40.0) + 40.0 - 1.0)
    fakes, data = 2 * x_hat - [0, 1], 2 * x - [0, 1]
    np.testing.assert_allclose(metrics["error"], error, rtol=1e-6)
    np.testing.assert_allclose(metrics["squared_error"], ((x - x_hat) ** 2).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(metrics["adversary"], -fakes.mean(axis=1), rtol=1e-5, atol=1e-6)
    want = error + 0.01 * kl - 3.0 * fakes.mean(axis=1)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    # d/da: -x_1 (of |x_1 - a x_1|) + 0.01 a x_1^2 - 3 x_1; d/dw: sign(w - x_2) - 3
    by_a = np.mean(-x[:, 0] + 0.01 * 0.5 * x[:, 0] ** 2 - 3.0 * x[:, 0])
    np.testing.assert_allclose(grads["encoder"]["a"], by_a, rtol=1e-4)
    np.testing.assert_allclose(grads["decoder"]["w"], np.mean([1, -1, 1]) - 3.0, rtol=1e-5)

    relu = lambda v: np.maximum(v, 0.0)  # noqa: E731
    want = 0.5 * (relu(1 - data).mean(axis=1) + relu(1 + fakes).mean(axis=1))
    np.testing.assert_allclose(judged, want, rtol=1e-5)
    np.testing.assert_allclose(of_judge["on_data"], data.mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(of_judge["on_fakes"], fakes.mean(axis=1), rtol=1e-5, atol=1e-6)
    by_s = 0.5 * ((1 + fakes > 0) * x_hat - (1 - data > 0) * x).mean(axis=1).mean()
    np.testing.assert_allclose(of_s["discriminator"]["s"], by_s, rtol=1e-4)


def test_before_its_start_the_discriminator_rests():
    (loss, metrics, grads), (judged, of_judge, of_s) = walk(by_hand(), START - 1)
    np.testing.assert_allclose(loss, metrics["error"] + 0.01 * metrics["kl"], rtol=1e-6)
    assert not np.any(metrics["adversary"]) and not np.any(judged)
    assert float(of_s["discriminator"]["s"]) == 0.0
    np.testing.assert_allclose(grads["decoder"]["w"], 1 / 3, rtol=1e-5)
    assert np.any(of_judge["on_data"])  # what it would say is logged


def linear(function, kernel):
    """A net with one layer, "out"."""
    init = lambda rng, x, cond=None: ({"out": {"kernel": jnp.asarray(kernel, jnp.float32)}}, {})  # noqa: E731
    return Net(
        init, lambda p, s, x, *, cond=None, rng=None, train: (function(p["out"]["kernel"], x), s)
    )


def adaptive(last="out/kernel", judge=((1.0, -1.0), (0.5, 2.0)), decoder=None, **options):
    """z = (a x_1, a x_2) nearly, x_hat = z W, logits x_hat V."""
    judge = judge if isinstance(judge, Net) else linear(lambda v, x: x @ v, judge)
    decoder = linear(lambda w, z: z @ w, W) if decoder is None else decoder

    def up(p, x):
        return jnp.concatenate([p["a"] * x, jnp.full(x.shape, -40.0)], axis=1)

    nets = fixed(up, a=0.5), decoder, judge
    chosen = {"latent_dim": 2, "beta": 0.0, "weight": 3.0, "error": squared_error, "start": START}
    return vae_gan(*nets, **chosen | {"last": last, **options})


W = np.asarray([[0.7, -0.2], [0.1, 0.4]])


def test_the_weight_follows_the_gradients_at_the_last_layer_by_hand():
    """Eq. 7 of Esser et al.; nothing is differentiated through it."""
    (loss, metrics, grads), _ = walk(adaptive(), START)
    x, v = np.float64(BATCH.x), np.asarray([[1.0, -1.0], [0.5, 2.0]])
    z = 0.5 * x
    x_hat = z @ W
    of_error = z.T @ (2.0 * (x_hat - x)) / 3
    of_judge = z.T @ np.tile(v.mean(axis=1), (3, 1)) / 3
    want = 3.0 * np.linalg.norm(of_error) / (np.linalg.norm(of_judge) + 1e-4)
    np.testing.assert_allclose(metrics["adversary_weight"], want, rtol=1e-5)
    adversary = -(x_hat @ v).mean(axis=1)
    np.testing.assert_allclose(metrics["adversary"], adversary, rtol=1e-5)
    error = ((x - x_hat) ** 2).sum(axis=1)
    np.testing.assert_allclose(loss, error + want * adversary, rtol=1e-5)
    by_kernel = of_error - want * of_judge
    np.testing.assert_allclose(grads["decoder"]["out"]["kernel"], by_kernel, rtol=1e-4)


def noisy(function, kernel):
    """As `linear`, of an input that is dropped out by half; counts its passes in its state."""

    def apply(p, s, x, *, cond=None, rng=None, train):
        if rng is not None:
            x = jnp.where(jax.random.bernoulli(rng, 0.5, x.shape), 2.0 * x, 0.0)
        return function(p["out"]["kernel"], x), {"passes": s["passes"] + 1}

    def init(rng, x, cond=None):
        return {"out": {"kernel": jnp.asarray(kernel, jnp.float32)}}, {"passes": jnp.int32(0)}

    return Net(init, apply)


def test_the_weight_is_of_the_very_passes_that_the_loss_makes():
    """With dropout in both nets: the gradients of what is logged, at the same noise, give it."""
    decoder = noisy(lambda w, z: z @ w, W)
    judge = noisy(lambda v, x: x @ v, [[1.0, -1.0], [0.5, 2.0]])
    model = adaptive(decoder=decoder, judge=judge)
    params, state = model.init(jax.random.key(0), BATCH)
    keys = jax.random.split(jax.random.key(5), 4)

    @jax.jit
    def found(rng):
        def logged(kernel, name):
            now = {**params, "decoder": {"out": {"kernel": kernel}}}
            _, aux = model.objectives[0].loss(now, state, rng, BATCH, jnp.int32(START), None)
            return jnp.mean(aux.metrics[name]), aux

        kernel = params["decoder"]["out"]["kernel"]
        of_error, aux = jax.grad(logged, has_aux=True)(kernel, "squared_error")
        of_judge, _ = jax.grad(logged, has_aux=True)(kernel, "adversary")
        want = 3.0 * jnp.linalg.norm(of_error) / (jnp.linalg.norm(of_judge) + 1e-4)
        return want, aux.metrics["adversary_weight"], aux.state["decoder"]["passes"]

    want, weight, passes = jax.vmap(found)(keys)
    np.testing.assert_allclose(weight, want, rtol=1e-5)
    assert len(np.unique(weight)) > 1  # the noise tells
    np.testing.assert_array_equal(passes, 1)  # the second pass leaves no trace


def test_a_discriminator_without_a_gradient_gets_at_most_ten_thousand():
    (_, metrics, _), _ = walk(adaptive(judge=((0.0, 0.0), (0.0, 0.0))), START)
    x = np.float64(BATCH.x)
    of_error = np.linalg.norm(0.5 * x.T @ (2.0 * (0.5 * x @ W - x)) / 3)
    np.testing.assert_allclose(metrics["adversary_weight"], 3.0 * of_error / 1e-4, rtol=1e-4)
    big = lambda x, x_hat: 1e4 * squared_error(x, x_hat)  # noqa: E731
    (_, metrics, _), _ = walk(adaptive(judge=((0.0, 0.0), (0.0, 0.0)), error=big), START)
    np.testing.assert_allclose(metrics["adversary_weight"], 3e4)


def test_a_last_layer_that_does_not_exist_is_named():
    with pytest.raises(
        UserError, match=r"no parameters at last='Conv_9/kernel': choose one of out/kernel"
    ):
        adaptive(last="Conv_9/kernel").init(jax.random.key(0), BATCH)


def test_a_discriminator_of_another_type_is_weighed_too():
    model = adaptive()
    half = linear(lambda v, x: (x @ v).astype(jnp.bfloat16), ((1.0, -1.0), (0.5, 2.0)))
    (_, want, _), _ = walk(model, START)
    (_, metrics, _), _ = walk(adaptive(judge=half), START)
    np.testing.assert_allclose(metrics["adversary_weight"], want["adversary_weight"], rtol=1e-2)


def test_two_leaves_at_one_path_are_refused():
    net = linear(lambda w, z: z @ w, W)
    init = lambda *args: (net.init(*args)[0] | {"out/kernel": jnp.zeros(())}, {})  # noqa: E731
    with pytest.raises(UserError, match="has several parameters at last='out/kernel'"):
        adaptive(decoder=net._replace(init=init)).init(jax.random.key(0), BATCH)


def test_the_hinge_by_hand():
    data, fakes = jnp.asarray([[0.0, 0.0], [2.0, 0.5]]), jnp.asarray([[0.0, 0.0], [-3.0, 1.0]])
    np.testing.assert_allclose(hinge(data, fakes), [1.0, 0.5 * (0.25 + 1.0)])
    np.testing.assert_allclose(hinge(data + 9.0, fakes - 9.0), [0.0, 0.0])
    ones = jnp.ones((2, 3, 1))
    np.testing.assert_allclose(absolute_error(ones, -ones), [6.0, 6.0])


def test_a_schedule_of_beta_is_reported():
    model = by_hand(beta=lambda step: 0.5 * step.astype(jnp.float32))
    (loss, metrics, _), _ = walk(model, 2)
    assert float(metrics["beta"]) == 1.0
    np.testing.assert_allclose(loss, metrics["error"] + metrics["kl"], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "weight must be at least 0"),
        ({"beta": -1.0}, "beta must be at least 0"),
        ({"start": -1}, "start must be at least 0"),
        ({"posterior": "ar1-readme"}, "VAE-GANs pay the KL"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        by_hand(**options)


def test_a_discriminator_of_the_whole_batch_is_refused():
    judge = fixed(lambda p, x: jnp.sum(p["s"] * x), s=1.0)
    model = vae_gan(nets.mlp((), 2), nets.mlp((), 2), judge, latent_dim=1)
    with pytest.raises(UserError, match=r"must return logits \[batch, ...\]"):
        jax.eval_shape(model.init, jax.random.key(0), BATCH)
