"""What the VAE's kin share, with nets that count their passes, against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvae.errors import UserError
from jaxvae.models import vae
from jaxvae.models.kin import Judge, kin_of
from jaxvae.types import Batch, Net

DIM, RNG = 2, jax.random.key(4)
X = np.asarray([[0.1, 0.9, 0.4], [0.7, 0.2, 0.6]], np.float32)
BATCH = Batch(jnp.asarray(X))


def counting(make):
    """A net of one number w, whose state counts its passes in training; it makes y of w and x."""

    def apply(params, state, x, *, cond=None, rng=None, train):
        return make(params["w"], x), {"passes": state["passes"] + int(train)}

    return Net(lambda rng, x, cond=None: ({"w": jnp.full((), 1.5)}, {"passes": 0}), apply)


def encoder(size):
    def outputs(w, x):
        rest = jnp.full((len(x), size - DIM), -0.5)
        return jnp.concatenate([w * x[:, :DIM], rest], axis=-1)

    return counting(outputs)


def decoder():
    return counting(lambda w, z: w * jnp.concatenate([z, z[:, :1]], axis=-1))


def kin(posterior="normal", **options):
    pair = encoder(2 * DIM if posterior == "normal" else DIM + 2), decoder()
    likelihood = {"likelihood": "gaussian", "gamma": 0.5, **options}
    return kin_of(*pair, latent_dim=DIM, posterior=posterior, **likelihood)


@pytest.fixture(scope="module")
def coded():
    made = kin()

    @jax.jit
    def walk():
        params, state = made.base.init(jax.random.key(0), BATCH)
        net, q, z, rec = made.coded(params, state, RNG, BATCH)
        return (state, net.state, net.key()), z, rec, made.report(params, q, rec, q.kl())

    return jax.tree.map(np.asarray, walk()[1:]), walk()[0]


def test_a_draw_has_the_second_key_and_what_comes_later_the_fourth(coded):
    """The passes of encoder and decoder have the first and the third."""
    (z, _, _), (_, _, later) = coded
    rng, keys = RNG, []
    for _ in range(4):
        rng, key = jax.random.split(rng)
        keys.append(key)
    eps = np.asarray(jax.random.normal(keys[1], (2, DIM)))
    np.testing.assert_allclose(z, 1.5 * X[:, :DIM] + np.exp(-0.25) * eps, rtol=1e-5)
    assert (jax.random.key_data(later) == jax.random.key_data(keys[3])).all()


def test_errors_and_what_is_logged_of_them(coded):
    (z, rec, found), _ = coded
    x_hat = 1.5 * np.float64(z)[:, [0, 1, 0]]
    want = np.sum((X - x_hat) ** 2, axis=1) + 1.5 * np.log(np.pi)  # variance 1/2
    np.testing.assert_allclose(rec, want, rtol=1e-5)
    kl = 0.5 * np.sum((1.5 * np.float64(X[:, :DIM])) ** 2 + np.exp(-0.5) + 0.5 - 1.0, axis=1)
    np.testing.assert_allclose(found["kl"], kl, rtol=1e-5)
    np.testing.assert_allclose(found["elbo"], -want - kl, rtol=1e-5)
    np.testing.assert_array_equal(found["rec"], rec)
    assert set(found) == {"rec", "kl", "elbo"}


def test_each_net_is_passed_once(coded):
    _, (before, after, _) = coded
    assert before == {"encoder": {"passes": 0}, "decoder": {"passes": 0}}
    assert after == {"encoder": {"passes": 1}, "decoder": {"passes": 1}}


def test_posterior_and_likelihood_tell_of_themselves_and_have_their_groups():
    made = kin("ar1", gamma="learned", gamma_floor=0.25)
    params, state = made.base.init(jax.random.key(0), BATCH)
    q = made.passes(params, state, RNG, BATCH).E(BATCH.x)
    found = made.report(params, q, jnp.zeros(2), jnp.zeros(2))
    np.testing.assert_allclose(found["gamma"], 1.25)
    np.testing.assert_allclose(found["rho_abs"], np.tanh(0.5), rtol=1e-5)
    assert made.groups == ("encoder", "decoder", "likelihood") == (*params,)
    assert kin().groups == ("encoder", "decoder")


def test_evaluation_and_start_are_those_of_the_vae():
    made, plain = (
        kin(),
        vae(encoder(4), decoder(), latent_dim=DIM, likelihood="gaussian", gamma=0.5),
    )
    found, want = (model.terms(*model.init(RNG, BATCH), RNG, BATCH) for model in (made.base, plain))
    assert made.base.objectives and (found.rec == want.rec).all() and (found.kl == want.kl).all()


def test_a_discriminator_is_a_group_of_its_own():
    made, judge = kin(), Judge(counting(lambda w, z: w * jnp.sum(z, axis=-1)))
    params, state = judge.started(made)(RNG, BATCH)
    assert params["discriminator"] == {"w": 1.5} and set(params) == {*made.groups, "discriminator"}
    z = jnp.asarray([[1.0, 2.0], [0.5, -1.0]])
    logits, after = judge(params, state, z, RNG)
    np.testing.assert_allclose(logits, [4.5, -0.75])
    assert after == {**state, "discriminator": {"passes": 1}}


def test_base_and_discriminator_start_with_a_key_each():
    def remembering(make):
        net = counting(make)
        return net._replace(init=lambda rng, x, cond=None: ({"w": rng}, {"passes": 0}))

    first, second = jax.random.split(RNG)
    made = kin()
    base = made.base._replace(init=lambda rng, batch: ({"encoder": rng}, {}))
    judge = Judge(remembering(lambda w, z: z[:, 0]))
    params, _ = judge.started(made._replace(base=base))(RNG, BATCH)
    keys = {name: jax.random.key_data(key) for name, key in (("first", first), ("second", second))}
    np.testing.assert_array_equal(jax.random.key_data(params["encoder"]), keys["first"])
    np.testing.assert_array_equal(jax.random.key_data(params["discriminator"]["w"]), keys["second"])


def test_what_is_refused():
    with pytest.raises(UserError, match="Certain VAEs pay the KL of what is sampled"):
        kin("ar1-released", pay_kl="Certain VAEs")
    assert kin("ar1-released").posterior.size(DIM) == DIM + 2
    made = kin()
    with pytest.raises(UserError, match="x must be floating point"):
        made.passes({}, {}, RNG, Batch(jnp.zeros((2, 3), jnp.uint8)))
    judge = Judge(counting(lambda w, z: w * z))
    with pytest.raises(
        UserError, match=r"one number for each latent, \[batch\], not shape \(2, 2\)"
    ):
        judge.started(made)(RNG, BATCH)
