"""IntroVAE and Soft-IntroVAE against the formulas written out in NumPy, in float64, with linear
nets and given noise.

What a convention holds fixed is fixed in the NumPy losses too (computed at the parameters `old`),
so that their finite differences are the gradients that the algorithm means.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from introspective_numpy import (
    BATCH,
    INTRO,
    NOISE,
    SOFT,
    ZERO,
    B,
    D,
    X,
    assert_grads,
    decode,
    differences,
    draw,
    encode,
    error,
    give,
    jax_params,
    kl,
    loss_and_gradient,
    nets,
    numpy_params,
)
from jaxvae.errors import UserError
from jaxvae.models import intro_vae, plain_vae, soft_intro_vae
from jaxvae.nets import from_linen, mlp
from jaxvae.nets.layers import BatchNorm, Dense
from jaxvae.testing import check_model
from jaxvae.train.step import init_state, make_train_step
from jaxvae.types import Batch, Net, Posterior

# ---- the papers in NumPy ---------------------------------------------------------------------


def soft_encoder(convention, old, phi, theta, eps):
    """Algorithm 2, lines 8 to 19 (to minimise); eps: n, z, z_rf, z_ff."""
    h = SOFT
    fake = decode(theta, eps[0])
    q = encode(phi, X)
    rec = decode(theta, draw(q, eps[1]))
    fixed = decode(theta, draw(encode(old["encoder"], X), eps[1]))
    q_r, q_f = encode(phi, rec if convention == "paper" else fixed), encode(phi, fake)
    rr, ff = decode(theta, draw(q_r, eps[2])), decode(theta, draw(q_f, eps[3]))
    exp_r = np.exp(
        -h["alpha"] * h["s"] * (h["beta_rec"] * error(rec, rr) + h["beta_neg"] * kl(q_r))
    )
    exp_f = np.exp(
        -h["alpha"] * h["s"] * (h["beta_rec"] * error(fake, ff) + h["beta_neg"] * kl(q_f))
    )
    real = h["s"] * (h["beta_rec"] * error(X, rec) + h["beta_kl"] * kl(q))
    return real + (exp_r + exp_f) / (2 * h["alpha"])


def soft_decoder(convention, old, phi, theta, eps, z):
    """Algorithm 2, lines 20 to 29, with the sign of Eq. 7; eps: z_rf, z_ff; n and z are those of
    the encoder's turn."""
    h, n, total = SOFT, NOISE[0], 0.0
    rec = decode(theta, z)
    for y, y_old, e in (
        (rec, decode(old["decoder"], z), eps[0]),
        (decode(theta, n), decode(old["decoder"], n), eps[1]),
    ):
        q = encode(phi, y)
        z_old = draw(encode(phi, y_old), e)
        if convention == "paper":
            err = error(y, decode(old["decoder"], z_old))
        else:
            err = error(y_old, decode(theta, z_old))
        total = total + 0.5 * (h["beta_kl"] * kl(q) + h["gamma_r"] * h["beta_rec"] * err)
    return h["s"] * (h["beta_rec"] * error(X, rec) + h["gamma"] * total)


# ---- ours ------------------------------------------------------------------------------------


@pytest.mark.parametrize("convention", ["paper", "released"])
def test_soft_intro_vae_losses_and_gradients(monkeypatch, convention):
    old, model = (
        numpy_params(),
        soft_intro_vae(*nets(), latent_dim=D, convention=convention, **SOFT),
    )
    phi, theta, params = old["encoder"], old["decoder"], jax_params(old)
    loss, grads, aux = loss_and_gradient(monkeypatch, model, 0, params, NOISE[:4])
    np.testing.assert_allclose(
        loss, soft_encoder(convention, old, phi, theta, NOISE[:4]), rtol=1e-5
    )
    assert_grads(
        grads, differences(lambda w: soft_encoder(convention, old, w, theta, NOISE[:4]), phi)
    )
    n, z = aux.carry
    np.testing.assert_allclose(n, NOISE[0], rtol=1e-6)
    np.testing.assert_allclose(z, draw(encode(phi, X), NOISE[1]), rtol=1e-5)
    # the decoder's turn: the encoder has moved, n and z have not
    moved = {**old, "encoder": numpy_params(2)["encoder"]}
    loss, grads, _ = loss_and_gradient(
        monkeypatch, model, 1, jax_params(moved), NOISE[4:], carry=(n, z)
    )
    args = (moved["encoder"], theta, NOISE[4:], np.asarray(z, np.float64))
    np.testing.assert_allclose(loss, soft_decoder(convention, moved, *args), rtol=1e-5)
    assert_grads(
        grads, differences(lambda w: soft_decoder(convention, moved, args[0], w, *args[2:]), theta)
    )


def test_conventions_of_soft_intro_vae_have_equal_losses_and_other_gradients(monkeypatch):
    params = jax_params(numpy_params())
    models = [
        soft_intro_vae(*nets(), latent_dim=D, convention=c, **SOFT) for c in ("paper", "released")
    ]
    for i, draws, carry in (
        (0, NOISE[:4], None),
        (1, NOISE[4:], tuple(jnp.asarray(e, jnp.float32) for e in NOISE[:2])),
    ):
        (loss, grad, _), (loss2, grad2, _) = (
            loss_and_gradient(monkeypatch, m, i, params, draws, carry) for m in models
        )
        np.testing.assert_allclose(loss, loss2, rtol=1e-6)
        assert np.abs(grad[0] - grad2[0]).max() > 1e-3


def test_plain_vae_loss_and_its_terms(monkeypatch):
    old = numpy_params()
    model = plain_vae(*nets(), latent_dim=D, beta_rec=0.8, beta_kl=0.05)
    give(monkeypatch, NOISE[:1])
    state = {"encoder": {}, "decoder": {}}
    loss, aux = model.objectives[0].loss(
        jax_params(old), state, jax.random.key(0), BATCH, ZERO, None
    )
    q = encode(old["encoder"], X)
    rec = error(X, decode(old["decoder"], draw(q, NOISE[0])))
    np.testing.assert_allclose(loss, 0.8 * rec + 0.05 * kl(q), rtol=1e-5)
    give(monkeypatch, NOISE[:1])
    terms = model.terms(jax_params(old), state, jax.random.key(0), BATCH)
    np.testing.assert_allclose(
        terms.rec, rec + np.log(np.pi), rtol=1e-5
    )  # -log N(x; x_hat, 1/2), two dimensions
    np.testing.assert_allclose(aux.metrics["squared_error"], rec, rtol=1e-5)


# ---- oracles ---------------------------------------------------------------------------------


def test_where_every_elbo_is_zero_the_adversarial_part_is_one_over_alpha():
    """q = prior everywhere and perfect reconstructions: exp(0) = 1 for both fakes; with alpha = 2
    that is 1/2."""
    zero = jax.tree.map(jnp.zeros_like, jax_params(numpy_params()))
    model = soft_intro_vae(*nets(), latent_dim=D, beta_neg=0.9, s=0.5)
    state, batch = {"encoder": {}, "decoder": {}}, Batch(jnp.zeros((B, 2)))
    loss, aux = model.objectives[0].loss(zero, state, jax.random.key(0), batch, ZERO, None)
    np.testing.assert_allclose(loss, 0.5, rtol=1e-6)
    np.testing.assert_allclose(aux.metrics["exp_elbo_rec"], 1.0)
    np.testing.assert_allclose(aux.metrics["exp_elbo_fake"], 1.0)


@pytest.mark.parametrize("convention", ["paper", "released"])
def test_without_gamma_r_the_second_decode_has_no_gradient(monkeypatch, convention):
    params, carry = (
        jax_params(numpy_params()),
        tuple(jnp.asarray(e, jnp.float32) for e in NOISE[:2]),
    )

    def grad(gamma_r, draws):
        model = soft_intro_vae(
            *nets(), latent_dim=D, convention=convention, **{**SOFT, "gamma_r": gamma_r}
        )
        return loss_and_gradient(monkeypatch, model, 1, params, draws, carry)[1]

    assert_grads(grad(0.0, []), grad(1e-30, NOISE[4:]))  # left out, or there with no weight
    assert np.abs(grad(0.0, [])[0] - grad(0.7, NOISE[4:])[0]).max() > 1e-3


@pytest.mark.parametrize(
    "build",
    [lambda *n, **k: soft_intro_vae(*n, **k), lambda *n, **k: intro_vae(*n, m=1.0, **k)],
    ids=["soft", "intro"],
)
@pytest.mark.parametrize("convention", ["paper", "released"])
def test_each_turn_moves_its_own_net_alone(build, convention):
    model, tx = build(*nets((4,)), latent_dim=D, convention=convention), optax.sgd(0.1)
    for i, (mine, other) in enumerate((("encoder", "decoder"), ("decoder", "encoder"))):
        objectives = [o if i == j else o._replace(wrt=()) for j, o in enumerate(model.objectives)]
        alone = model._replace(objectives=tuple(objectives))
        start = init_state(model, tx, jax.random.key(0), BATCH)
        end, _ = make_train_step(alone, tx)(start, BATCH)
        assert all(
            jax.tree.leaves(jax.tree.map(np.array_equal, start.params[other], end.params[other]))
        )
        assert not any(
            jax.tree.leaves(jax.tree.map(np.array_equal, start.params[mine], end.params[mine]))
        )


# ---- order, nets with a state, contracts ------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "orders"),
    [
        (lambda *n: soft_intro_vae(*n, latent_dim=D), ("DEDEDED", "DDEEDD")),
        (lambda *n: intro_vae(*n, latent_dim=D, m=1.0), ("EDDE", "DDE")),
        (lambda *n: intro_vae(*n, latent_dim=D, m=1.0, convention="released"), ("DEDEE", "DDEE")),
    ],
    ids=["soft", "intro", "intro released"],
)
def test_order_of_the_passes(build, orders):
    """BatchNorm's running averages depend on it."""
    seen = []

    def logged(net, letter):
        def apply(*args, **options):
            seen.append(letter)
            return net.apply(*args, **options)

        return Net(net.init, apply)

    encoder, decoder = nets()
    model = build(logged(encoder, "E"), logged(decoder, "D"))
    params, state = model.init(jax.random.key(0), BATCH)
    carry = None
    for objective, order in zip(model.objectives, orders, strict=True):
        seen.clear()
        _, aux = objective.loss(params, state, jax.random.key(1), BATCH, ZERO, carry)
        carry = aux.carry
        assert "".join(seen) == order


def batch_norm_net(out):
    import flax.linen as nn

    class Net2(nn.Module):
        @nn.compact
        def __call__(self, x, *, cond=None, train):
            return Dense(out)(BatchNorm()(Dense(4)(x), train=train))

    return from_linen(Net2())


@pytest.mark.long
@pytest.mark.parametrize(
    "build",
    [
        lambda: soft_intro_vae(*nets((4,)), latent_dim=D),
        lambda: intro_vae(
            batch_norm_net(2 * D), batch_norm_net(2), latent_dim=D, m=1.0, convention="released"
        ),
    ],
    ids=["soft", "intro with BatchNorm"],
)
def test_contracts(build):
    check_model(build(), Batch(jax.random.normal(jax.random.key(3), (16, 2))))


def test_soft_intro_vae_with_batch_norm_and_a_posterior_of_ones_own():
    from jaxvae.distributions import Normal

    unit = Posterior(size=lambda d: d, build=lambda mean: Normal(mean, jnp.zeros(())))
    model = soft_intro_vae(batch_norm_net(D), batch_norm_net(2), latent_dim=D, posterior=unit)
    start = init_state(model, optax.adam(1e-2), jax.random.key(0), BATCH)
    end, metrics = make_train_step(model, optax.adam(1e-2))(start, BATCH)
    assert np.isfinite(float(metrics["encoder_loss"]))
    for name in ("encoder", "decoder"):
        assert not any(
            jax.tree.leaves(jax.tree.map(np.array_equal, start.state[name], end.state[name]))
        )


SYSTEMS = {
    "plain": plain_vae,
    "intro": lambda *n, **k: intro_vae(*n, m=1.0, **k),
    "soft": soft_intro_vae,
}


@pytest.mark.parametrize("build", SYSTEMS.values(), ids=SYSTEMS)
def test_a_saturated_ar1_posterior_is_counted_in_training(build):
    model, tx = build(mlp((), D + 2), mlp((), 2), latent_dim=D, posterior="ar1"), optax.sgd(1e-3)
    state = init_state(model, tx, jax.random.key(0), BATCH)
    step = make_train_step(model, tx)
    assert float(step(state, BATCH)[1]["rho_saturated"]) == 0.0
    state.params["encoder"]["Dense_0"]["bias"] = (
        state.params["encoder"]["Dense_0"]["bias"].at[D].set(50.0)
    )
    state, metrics = step(state, BATCH)
    assert float(metrics["rho_saturated"]) == 1.0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize("posterior", ["ar1-readme", "ar1-released"])
@pytest.mark.parametrize("build", SYSTEMS.values(), ids=SYSTEMS)
def test_a_posterior_whose_convention_pays_no_kl_is_refused(build, posterior):
    with pytest.raises(
        UserError, match="this posterior's convention pays something else: use posterior='ar1'"
    ):
        build(mlp((), D + 2), mlp((), 2), latent_dim=D, posterior=posterior)


def test_hyper_parameters_may_be_traced():
    params = jax_params(numpy_params())

    def loss(build, values):
        model = build(**values)
        carry, found = None, []
        for objective in model.objectives:
            value, aux = objective.loss(
                params, {"encoder": {}, "decoder": {}}, jax.random.key(1), BATCH, ZERO, carry
            )
            carry = aux.carry
            found.append(jnp.mean(value))
        return jnp.stack(found)

    for build, names in (
        (lambda **h: soft_intro_vae(*nets(), latent_dim=D, **h), tuple(SOFT)),
        (lambda **h: intro_vae(*nets(), latent_dim=D, **h), (*INTRO, "m")),
    ):
        values = {name: jnp.asarray([0.3, 0.9]) for name in names}
        have = jax.jit(jax.vmap(lambda v, build=build: loss(build, v)))(values)
        want = [loss(build, {name: float(v[i]) for name, v in values.items()}) for i in range(2)]
        np.testing.assert_allclose(have, jnp.stack(want), rtol=1e-5)
        assert abs(float(have[0, 0] - have[1, 0])) > 1e-3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda e, d: soft_intro_vae(e, d, latent_dim=D, beta_rec=-1.0),
            "beta_rec must be at least 0, not -1",
        ),
        (
            lambda e, d: soft_intro_vae(e, d, latent_dim=D, beta_neg=-0.1),
            "beta_neg must be at least 0",
        ),
        (
            lambda e, d: soft_intro_vae(e, d, latent_dim=D, s=-0.5),
            "s must be greater than 0, not -0.5",
        ),
        (lambda e, d: soft_intro_vae(e, d, latent_dim=D, s=0.0), "s must be greater than 0, not 0"),
        (
            lambda e, d: soft_intro_vae(e, d, latent_dim=D, alpha=0.0),
            "alpha must be greater than 0",
        ),
        (
            lambda e, d: soft_intro_vae(e, d, latent_dim=D, gamma_r=float("nan")),
            "gamma_r must be finite",
        ),
        (
            lambda e, d: soft_intro_vae(e, d, latent_dim=D, convention="relased"),
            "unknown convention 'relased'. Did you mean",
        ),
        (lambda e, d: soft_intro_vae(e, d, latent_dim=0), "latent_dim must be at least 1"),
        (lambda e, d: plain_vae(e, d, latent_dim=D, beta_kl="1"), "beta_kl must be a number"),
    ],
)
def test_what_they_refuse(build, message):
    with pytest.raises(UserError, match=message):
        build(*nets())


def test_kls_rest_where_the_page_of_soft_intro_vae_says():
    """KLs of data and of fakes that move together: the encoder's loss is least at
    ln(beta_neg / beta_kl) / (alpha s beta_neg)."""
    weights = {"beta_kl": 0.5, "beta_neg": 8.0, "s": 0.02, "alpha": 1.5}

    def apply(params, state, x, *, cond=None, rng=None, train):
        mean = jnp.sqrt(2 * params["kl"] / D)  # of N(mean, 1) in D dimensions, whatever x is
        return jnp.broadcast_to(
            jnp.repeat(jnp.stack([mean, 0.0 * mean]), D), (len(x), 2 * D)
        ), state

    encoder = Net(lambda rng, x, cond=None: ({"kl": jnp.ones(())}, {}), apply)
    model = soft_intro_vae(encoder, nets()[1], latent_dim=D, beta_rec=0.0, **weights)
    params, state = model.init(jax.random.key(0), BATCH)

    @jax.grad
    def slope(kl):
        at = {**params, "encoder": {"kl": kl}}
        return model.objectives[0].loss(at, state, jax.random.key(1), BATCH, ZERO, None)[0].mean()

    rest = np.log(8.0 / 0.5) / (1.5 * 0.02 * 8.0)
    below, there, above = (float(slope(k * rest)) for k in (0.8, 1.0, 1.25))
    assert below < -2e-3 and abs(there) < 1e-7 and above > 2e-3


# ---- what a log says -----------------------------------------------------------------------------


def test_only_models_with_such_losses_watch_them():
    assert plain_vae(*nets(), latent_dim=D).watch == ()
