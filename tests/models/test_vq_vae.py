"""The VQ-VAE's choice, gradients, averages and bound against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae import nets
from jaxvae.errors import UserError
from jaxvae.models import codebook, vq_vae
from jaxvae.types import Batch
from small import precisions

N, CODES, SIZE, STEP = 3, 5, 2, jnp.int32(0)
BATCH = Batch(jax.random.uniform(jax.random.key(9), (6, 4)))


def model_of(**options):
    pair = nets.mlp((), (N, SIZE)), nets.mlp((), 4)
    return vq_vae(*pair, codebook(CODES, SIZE, **options), shape=(N,))


def walked(model):
    """Returns parameters, state, loss, what it hands on, gradients of the mean loss, and what
    encodes."""

    @jax.jit
    def walk():
        params, state = model.init(jax.random.key(0), BATCH)

        def mean(params):
            loss, aux = model.objectives[0].loss(
                params, state, jax.random.key(1), BATCH, STEP, None
            )
            return jnp.mean(loss), (loss, aux)

        grads, (loss, aux) = jax.grad(mean, has_aux=True)(params)
        terms = model.terms(params, state, jax.random.key(2), BATCH)
        return params, state, loss, aux, grads, model.encode(params, state, BATCH.x), terms

    return walk()


def by_hand(params, table):
    """Returns h [B, n, E], index [B, n], z and x_hat of linear nets, in float64."""
    encoder, decoder = (
        {k: np.float64(v) for k, v in params[name]["Dense_0"].items()}
        for name in ("encoder", "decoder")
    )
    h = (np.float64(BATCH.x) @ encoder["kernel"] + encoder["bias"]).reshape(-1, N, SIZE)
    index = np.argmin(((h[:, :, None] - table) ** 2).sum(axis=-1), axis=-1)
    z = table[index]
    return h, index, z, z.reshape(len(h), -1) @ decoder["kernel"] + decoder["bias"], decoder


@pytest.fixture(scope="module")
def of_loss():
    return walked(model_of(commitment=0.7))


def test_the_loss_is_that_of_the_paper(of_loss):
    params, _, loss, aux, _, q, terms = of_loss
    h, index, z, x_hat, _ = by_hand(params, np.float64(params["codebook"]["entries"]))
    assert len(np.unique(index)) > 1
    np.testing.assert_array_equal(q.index, index)
    np.testing.assert_allclose(q.mean, z.reshape(6, -1), rtol=1e-6)
    error = np.sum((np.float64(BATCH.x) - x_hat) ** 2, axis=1)
    rec, paid = error + 2.0 * np.log(np.pi), 1.7 * np.sum((h - z) ** 2, axis=(1, 2))
    np.testing.assert_allclose(aux.metrics["rec"], rec, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["quantisation"], paid, rtol=1e-4)
    np.testing.assert_allclose(loss, rec + paid, rtol=1e-5)
    np.testing.assert_allclose(terms.rec, rec, rtol=1e-5)
    np.testing.assert_allclose(terms.kl, N * np.log(CODES), rtol=1e-6)
    share = np.bincount(index.reshape(-1), minlength=CODES) / index.size
    want = np.exp(-np.sum(share[share > 0] * np.log(share[share > 0])))
    assert float(aux.metrics["perplexity"]) == pytest.approx(want, rel=1e-5)


def test_gradients_pass_straight_through(of_loss):
    params, _, _, _, grads, _, _ = of_loss
    table = np.float64(params["codebook"]["entries"])
    h, index, z, x_hat, decoder = by_hand(params, table)
    at_z = (2.0 * (x_hat - np.float64(BATCH.x)) @ decoder["kernel"].T).reshape(h.shape)
    at_h = at_z + 0.7 * 2.0 * (h - z)
    bias = at_h.reshape(6, -1).mean(axis=0)
    np.testing.assert_allclose(grads["encoder"]["Dense_0"]["bias"], bias, rtol=1e-4, atol=1e-5)
    want = np.zeros_like(table)
    np.add.at(want, index, 2.0 * (z - h) / 6)
    np.testing.assert_allclose(grads["codebook"]["entries"], want, rtol=1e-4, atol=1e-5)


def test_moving_averages_are_those_of_the_paper():
    model = model_of(commitment=0.7, ema=True, decay=0.9)
    params, state, loss, aux, _, _, _ = walked(model)
    assert "codebook" not in params and model.objectives[0].wrt == ("encoder", "decoder")
    table = np.float64(state["codebook"]["entries"])
    h, index, z, x_hat, _ = by_hand(params, table)
    error = np.sum((np.float64(BATCH.x) - x_hat) ** 2, axis=1) + 2.0 * np.log(np.pi)
    np.testing.assert_allclose(loss, error + 0.7 * np.sum((h - z) ** 2, axis=(1, 2)), rtol=1e-5)
    count, total = 0.9 * np.ones(CODES), 0.9 * table
    for k in range(CODES):
        count[k] += 0.1 * np.sum(index == k)
        total[k] += 0.1 * h[index == k].sum(axis=0)
    new = {k: np.float64(v) for k, v in aux.state["codebook"].items()}
    np.testing.assert_allclose(new["count"], count, rtol=1e-5)
    np.testing.assert_allclose(new["sum"], total, rtol=1e-4, atol=1e-6)
    smooth = (count + 1e-5) / (count.sum() + CODES * 1e-5) * count.sum()
    np.testing.assert_allclose(new["entries"], total / smooth[:, None], rtol=1e-4, atol=1e-6)


def test_the_choice_and_the_averages_are_of_the_highest_precision_whatever_the_environment_says():
    """Else h would have one entry in training and another in evaluation."""
    table = codebook(CODES, SIZE, ema=True)
    params, state = table.init(jax.random.key(0))
    with jax.default_matmul_precision("default"):
        chosen = lambda h: table.quantise(params, state, h, True)[1:]  # noqa: E731
        assert precisions(chosen, jnp.ones((2, N, SIZE))) == {"HIGHEST"}


def test_samples_are_of_all_codes_and_the_code_has_probability_one(of_loss):
    model = model_of(commitment=0.7)
    params, state, _, _, _, q, _ = of_loss
    np.testing.assert_array_equal(q.log_prob(q.mean), 0.0)
    assert np.isneginf(q.log_prob(q.mean + 1.0)).all()
    x = np.asarray(model.sample(params, state, jax.random.key(0), 500))
    table, decoder = np.float64(params["codebook"]["entries"]), params["decoder"]["Dense_0"]
    mean = np.tile(table.mean(axis=0), N) @ np.float64(decoder["kernel"]) + decoder["bias"]
    np.testing.assert_allclose(x.mean(axis=0), mean, atol=4 * x.std() / np.sqrt(500))
    assert len(np.unique(x.round(4), axis=0)) > 100  # of 125


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: codebook(1, 2), "codes must be at least 2"),
        (lambda: codebook(4, 2, commitment=-1.0), "commitment must be at least 0"),
        (lambda: codebook(4, 2, ema=True, decay=1.0), "decay must be below 1"),
        (
            lambda: jax.eval_shape(
                vq_vae(nets.mlp((), 6), nets.mlp((), 4), codebook(4, 2), shape=(3,)).init,
                jax.random.key(0),
                BATCH,
            ),
            "the encoder returns shape",
        ),
        (
            lambda: jax.eval_shape(
                vq_vae(nets.mlp((), (3, 2)), nets.mlp((), 5), codebook(4, 2), shape=(3,)).init,
                jax.random.key(0),
                BATCH,
            ),
            "the decoder returns shape",
        ),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_bytes_are_refused_before_they_are_encoded(of_loss):
    params, state = of_loss[:2]
    with pytest.raises(UserError, match="x must be floating point, not uint8"):
        jax.eval_shape(model_of().encode, params, state, jnp.zeros(BATCH.x.shape, jnp.uint8))
