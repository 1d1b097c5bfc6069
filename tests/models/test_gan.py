"""The GAN's losses against values worked out by hand, its penalty against finite differences, the
order of its passes, and what it refuses."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvae import nets
from jaxvae.data import toy2d
from jaxvae.errors import UserError
from jaxvae.models import clip_weights, gan
from jaxvae.models.gan import _perturbed, gradient_penalty
from jaxvae.nets import infogan_gan, mlp_gan
from jaxvae.testing import check_model
from jaxvae.train import train_ensemble
from jaxvae.train.step import init_state, make_train_step
from jaxvae.types import Batch, Net

STEP, KEY = jnp.int32(0), jax.random.key(5)
X = np.asarray([[0.5, -1.0], [2.0, 0.25], [-1.5, 1.0]], np.float32)
FAKE = np.asarray([0.3, -0.7], np.float32)  # what the generator gives for every z
A, B = np.asarray([0.6, -1.1], np.float32), np.float32(0.2)  # the discriminator is A x + B


def constant(n=2):
    """A generator whose every x is its parameter."""

    def apply(params, state, z, *, cond=None, rng=None, train):
        return jnp.broadcast_to(params["x"], (len(z), n)), state

    return Net(lambda rng, z, cond=None: ({"x": jnp.asarray(FAKE)}, {}), apply)


def linear():
    def apply(params, state, x, *, cond=None, rng=None, train):
        return jnp.sum(x * params["a"], axis=-1) + params["b"], state

    return Net(lambda rng, x, cond=None: ({"a": jnp.asarray(A), "b": jnp.asarray(B)}, {}), apply)


def losses_of(model, x=X, rng=1):
    """Returns the loss of each objective and all metrics, without training."""
    batch = Batch(jnp.asarray(x))
    params, state = model.init(jax.random.key(0), batch)
    found, carry = {}, None
    for objective in model.objectives:
        value, aux = objective.loss(params, state, jax.random.key(rng), batch, STEP, carry)
        found |= {objective.name: value, **aux.metrics}
        state, carry = aux.state, aux.carry
    return found, state


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


ON_REAL, ON_FAKE = (np.asarray(x, np.float64) @ A + B for x in (X, np.tile(FAKE, (3, 1))))
REAL, FALSE = sigmoid(ON_REAL), sigmoid(ON_FAKE)  # what the discriminator says, as probabilities
CROSS_ENTROPY = -np.log(REAL), -np.log(1.0 - FALSE)
NORM = np.sqrt(0.6**2 + 1.1**2)  # of the gradient of A x + B, everywhere
BY_HAND = {  # of real, of fake, of the generator, and the penalty
    ("ns", "paper"): (*CROSS_ENTROPY, -np.log(FALSE), None),
    ("mm", "paper"): (*CROSS_ENTROPY, np.log(1.0 - FALSE), None),
    ("lsgan", "paper"): ((ON_REAL - 1.0) ** 2 / 2, ON_FAKE**2 / 2, (ON_FAKE - 1.0) ** 2 / 2, None),
    ("lsgan", "released"): ((REAL - 1.0) ** 2 / 2, FALSE**2 / 2, (FALSE - 1.0) ** 2 / 2, None),
    ("wgan", "paper"): (-ON_REAL, ON_FAKE, -ON_FAKE, None),
    ("wgan_gp", "paper"): (-ON_REAL, ON_FAKE, -ON_FAKE, (NORM - 1.0) ** 2),
    ("wgan_gp", "released"): (-ON_REAL, ON_FAKE, -ON_FAKE, (np.sqrt(1e-4 + NORM**2) - 1.0) ** 2),
}


@pytest.mark.parametrize(("loss", "convention"), BY_HAND)
def test_losses_are_those_of_the_papers(loss, convention):
    real, fake, generator, penalty = BY_HAND[loss, convention]
    model = gan(constant(), linear(), latent_dim=4, loss=loss, convention=convention, penalty=7.0)
    found, _ = losses_of(model)
    np.testing.assert_allclose(found["on_real"], ON_REAL, rtol=1e-5)
    np.testing.assert_allclose(found["on_fake"], ON_FAKE, rtol=1e-5)
    np.testing.assert_allclose(found["real_loss"], real, rtol=1e-5)
    np.testing.assert_allclose(found["fake_loss"], fake, rtol=1e-5)
    np.testing.assert_allclose(found["generator_loss"], generator, rtol=1e-5)
    total = real + fake + (0.0 if penalty is None else 7.0 * penalty)
    np.testing.assert_allclose(found["discriminator_loss"], total, rtol=1e-5, atol=1e-6)
    assert ("penalty" in found) == (penalty is not None)
    if penalty is not None:
        np.testing.assert_allclose(found["penalty"], np.full(3, penalty), rtol=1e-5)


def test_the_losses_where_the_discriminator_cannot_tell():
    model = gan(*mlp_gan(2, shrink=64), latent_dim=3)
    batch = Batch(jnp.asarray(X))
    params, state = model.init(jax.random.key(0), batch)
    params["discriminator"] = jax.tree.map(jnp.zeros_like, params["discriminator"])  # logits 0
    want = {"generator_loss": np.log(2.0), "discriminator_loss": 2.0 * np.log(2.0)}
    for objective in model.objectives:
        loss, _ = objective.loss(params, state, jax.random.key(1), batch, STEP, None)
        np.testing.assert_allclose(loss, np.full(3, want[objective.name]), rtol=1e-6)


# ---- the penalty -----------------------------------------------------------------------------


def test_the_penalty_and_its_gradient_are_those_of_finite_differences():
    with jax.enable_x64(True):
        widths, rngs = (3, 5, 4, 1), jax.random.split(KEY, 4)
        x = jax.random.normal(rngs[0], (6, 3), jnp.float64)
        params = [
            jax.random.normal(rng, sides, jnp.float64)
            for rng, sides in zip(rngs[1:], itertools.pairwise(widths), strict=True)
        ]

        def critic(params):
            def of(at):
                for kernel in params[:-1]:
                    at = jnp.tanh(at @ kernel)
                return (at @ params[-1])[:, 0], {}

            return of

        found, _ = gradient_penalty(critic(params), x)
        step, of = 1e-5, critic(params)
        slopes = np.stack(
            [
                (of(x + step * np.eye(3)[i])[0] - of(x - step * np.eye(3)[i])[0]) / (2 * step)
                for i in range(3)
            ],
            axis=-1,
        )
        np.testing.assert_allclose(found, (np.linalg.norm(slopes, axis=-1) - 1.0) ** 2, rtol=1e-6)

        def mean(params):
            return jnp.mean(gradient_penalty(critic(params), x)[0])

        for i, gradient in enumerate(jax.grad(mean)(params)):
            way = jax.random.normal(KEY, params[i].shape, jnp.float64)
            ends = [
                float(mean([*params[:i], params[i] + by * way, *params[i + 1 :]]))
                for by in (-step, step)
            ]
            slope = (ends[1] - ends[0]) / (2 * step)
            np.testing.assert_allclose(jnp.sum(gradient * way), slope, rtol=1e-5, atol=1e-9)


def test_each_interpolate_lies_at_a_place_of_its_own_between_its_data_and_its_fake():
    """With D(x) = |x|^2 / 2 the gradient is x itself: of data at 0, u times the fake."""

    def apply(params, state, x, *, cond=None, rng=None, train):
        return 0.5 * jnp.sum(jnp.square(x), axis=-1) + params, state

    square = Net(lambda rng, x, cond=None: (jnp.zeros(()), {}), apply)
    model = gan(constant(), square, latent_dim=2, loss="wgan_gp")
    far = 0.5 * FAKE / np.linalg.norm(FAKE)  # so that |gradient| <= 1/2 and the root is one

    def loss(x):
        batch = Batch(x)
        params, state = model.init(jax.random.key(0), batch)
        params["generator"] = {"x": jnp.asarray(far)}
        (objective,) = (o for o in model.objectives if o.name == "discriminator_loss")
        return objective.loss(params, state, jax.random.key(1), batch, STEP, None)[1].metrics

    u = (1.0 - np.sqrt(loss(jnp.zeros((500, 2)))["penalty"])) / 0.5
    assert np.all((u > -1e-5) & (u < 1.0 + 1e-5))
    assert len(np.unique(u)) > 490
    assert abs(np.mean(u) - 0.5) < 0.05 and abs(np.var(u) - 1.0 / 12.0) < 0.01


@pytest.mark.parametrize(("convention", "root"), [("paper", 0.0), ("released", 1e-4)])
def test_dragans_penalty_is_of_probabilities_at_the_data(convention, root):
    """Of numbers that are all equal the standard deviation is 0, and the points are the data."""
    options = {"loss": "dragan", "convention": convention, "penalty": 7.0}
    found, _ = losses_of(gan(constant(), linear(), latent_dim=4, **options), np.full((3, 2), 0.4))
    real = sigmoid(0.4 * (0.6 - 1.1) + 0.2)
    penalty = (np.sqrt(root + (real * (1.0 - real) * NORM) ** 2) - 1.0) ** 2
    np.testing.assert_allclose(found["penalty"], np.full(3, penalty), rtol=1e-5)
    np.testing.assert_allclose(found["generator_loss"], -np.log(FALSE), rtol=1e-5)
    total = -np.log(real) - np.log(1.0 - FALSE) + 7.0 * penalty
    np.testing.assert_allclose(found["discriminator_loss"], total, rtol=1e-5)


def test_dragans_points_are_half_a_deviation_from_the_data_at_most():
    x = np.random.default_rng(0).normal(2.0, 3.0, (400, 4)).astype(np.float32)
    v = (np.asarray(_perturbed(KEY, jnp.asarray(x))) - x) / (0.5 * x.std())
    assert v.min() > -1e-4 and v.max() < 1.0 + 1e-4
    assert abs(v.mean() - 0.5) < 0.03 and abs(v.var() - 1.0 / 12.0) < 0.01


def test_the_penalty_of_a_flat_critic_has_a_gradient():
    def critic(w):
        return lambda x: (w * jnp.sum(x, axis=-1), {})

    value, slope = jax.value_and_grad(lambda w: gradient_penalty(critic(w), X)[0].sum())(0.0)
    assert (float(value), float(slope)) == (3.0, 0.0)


# ---- noise, order, state -----------------------------------------------------------------------


def test_data_and_fakes_are_judged_with_different_dropout():
    """Where the generator gives the data themselves, only dropout tells them apart."""
    x = np.tile(FAKE, (16, 1))
    found, _ = losses_of(gan(constant(), mlp_gan(2, shrink=8)[1], latent_dim=2), x)
    assert not np.allclose(found["on_real"], found["on_fake"])
    rows = np.asarray(found["on_real"])
    assert len(np.unique(rows)) > 8  # and every row has a mask of its own


def drawing():
    """A generator that keeps every z it is given."""
    seen = []

    def apply(params, state, z, *, cond=None, rng=None, train):
        seen.append(z)
        return z * params, state

    return Net(lambda rng, z, cond=None: (jnp.ones(()), {}), apply), seen


@pytest.mark.parametrize("first", ["generator", "discriminator"])
@pytest.mark.parametrize("same", [True, False])
def test_both_losses_have_one_noise_or_two(first, same):
    generator, seen = drawing()
    model = gan(generator, linear(), latent_dim=2, first=first, same_noise=same)
    batch = Batch(jnp.asarray(X))
    params, state = model.init(jax.random.key(0), batch)
    seen.clear()
    carry = None
    for i, objective in enumerate(model.objectives):
        rng = jax.random.fold_in(jax.random.key(1), i)
        carry = objective.loss(params, state, rng, batch, STEP, carry)[1].carry
    assert model.objectives[0].name == f"{first}_loss"
    assert np.array_equal(seen[0], seen[1]) == same


def test_noise_is_of_the_prior():
    generator, _ = drawing()
    for prior, low, spread in (("normal", -2.5, 1.0), ("uniform", -1.0, np.sqrt(1.0 / 3.0))):
        model = gan(generator, linear(), latent_dim=2, prior=prior)
        z = np.asarray(model.sample({"generator": jnp.ones(())}, {"generator": {}}, KEY, 4000))
        assert abs(z.std() - spread) < 0.02 and abs(z.mean()) < 0.02
        assert (z.min() < low) == (prior == "normal")
    assert np.abs(z).max() <= 1.0


def test_running_averages_follow_the_passes():
    """A step's passes: G twice, D twice in its own loss, data first, and once in the generator's."""
    pair = infogan_gan((4, 4, 1), latent_dim=3, shrink=32)
    model = gan(*pair, latent_dim=3)
    batch = Batch(jax.random.uniform(KEY, (8, 4, 4, 1)))
    params, state = model.init(jax.random.key(0), batch)
    discriminate, generate = model.objectives
    _, aux = discriminate.loss(params, state, KEY, batch, STEP, None)

    def counts(state):
        return [int(norm["count"]) for norm in state["batch_stats"].values()]

    assert (counts(aux.state["generator"]), counts(aux.state["discriminator"])) == (
        [1] * 3,
        [2] * 2,
    )
    _, last = generate.loss(params, aux.state, KEY, batch, STEP, aux.carry)
    assert (counts(last.state["generator"]), counts(last.state["discriminator"])) == (
        [2] * 3,
        [3] * 2,
    )

    found, after = losses_of(gan(constant(), _normed(), latent_dim=2, first="generator"))
    params, state = _normed().init(KEY, X)
    for x in (np.tile(FAKE, (3, 1)), X, np.tile(FAKE, (3, 1))):  # G's loss, then D's
        y, state = _normed().apply(params, state, jnp.asarray(x), train=True)
    jax.tree.map(np.testing.assert_array_equal, after["discriminator"], state)
    np.testing.assert_array_equal(found["on_fake"], y)


def _normed():
    """A discriminator that is BatchNorm and a sum."""
    norm = nets.layers.BatchNorm()

    def init(rng, x, cond=None):
        variables = dict(norm.init(rng, x, train=True))
        return variables.pop("params"), variables

    def apply(params, state, x, *, cond=None, rng=None, train):
        y, new = norm.apply({"params": params, **state}, x, train=True, mutable=["batch_stats"])
        return jnp.sum(y * jnp.asarray([1.0, 2.0]), axis=-1), dict(new)

    return Net(init, apply)


@pytest.mark.parametrize(("first", "moves"), [("discriminator", [2, 5]), ("generator", [0, 3])])
def test_the_generator_moves_at_every_so_many_steps(first, moves):
    model = gan(*mlp_gan(2, shrink=64), latent_dim=2, loss="wgan", first=first, every=3)
    tx, batch = optax.adam(1e-2), Batch(jnp.asarray(X))
    state = init_state(model, tx, jax.random.key(0), batch)
    step = jax.jit(make_train_step(model, tx))
    moved = {"generator": [], "discriminator": []}
    for i in range(6):
        old = state.params
        state, metrics = step(state, batch)
        for name in moved:
            pairs = zip(*(jax.tree.leaves(p[name]) for p in (old, state.params)), strict=True)
            if any(np.any(a != b) for a, b in pairs):
                moved[name].append(i)
        assert float(metrics["generator_loss"].count) == (3 if i in moves else 0)
    assert moved == {"generator": moves, "discriminator": list(range(6))}


@pytest.mark.long
def test_clipped_weights_stay_inside():
    model = gan(*mlp_gan(2, shrink=64), latent_dim=2, loss="wgan")
    adam = optax.adam(1e-2)
    tx = {"generator": adam, "discriminator": optax.chain(adam, clip_weights(0.01))}
    batch = Batch(jnp.asarray(X))
    state, _ = make_train_step(model, tx)(init_state(model, tx, KEY, batch), batch)
    largest = {
        name: max(float(jnp.max(jnp.abs(w))) for w in jax.tree.leaves(tree))
        for name, tree in state.params.items()
    }
    np.testing.assert_allclose(largest["discriminator"], 0.01, rtol=1e-5)
    assert largest["generator"] > 0.1


# ---- contracts ---------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    ("loss", "options"),
    [
        ("ns", {"same_noise": True}),
        *(
            pytest.param(*slower, marks=pytest.mark.slow)
            for slower in (
                ("mm", {"first": "generator", "same_noise": True}),
                ("lsgan", {"convention": "released", "prior": "uniform"}),
                ("wgan", {"first": "generator", "every": 2}),
            )
        ),
        ("wgan_gp", {"every": 2, "same_noise": True}),
    ],
)
def test_every_loss_keeps_the_contracts(loss, options):
    pair = nets.mlp((4,), 2), mlp_gan(2, output="linear", shrink=64)[1]
    model = gan(*pair, latent_dim=3, loss=loss, **options)
    check_model(model, Batch(jax.random.normal(KEY, (16, 2))))


@pytest.mark.slow  # those of the study have their layers, and more
def test_the_nets_of_the_report_keep_the_contracts():
    batch = Batch(jax.random.uniform(KEY, (16, 4, 4, 1)))
    check_model(gan(*mlp_gan((4, 4, 1), shrink=64), latent_dim=3, first="generator"), batch)


@pytest.mark.long
def test_the_nets_of_the_study_keep_the_contracts():
    batch = Batch(jax.random.uniform(KEY, (16, 4, 4, 1)))
    pair = infogan_gan((4, 4, 1), latent_dim=3, shrink=32)
    check_model(gan(*pair, latent_dim=3, convention="released"), batch)
    pair = infogan_gan((4, 4, 1), latent_dim=3, shrink=32, batch_norm=False)
    model = gan(*pair, latent_dim=3, loss="wgan_gp", convention="released")
    found, _ = losses_of(model, batch.x)
    assert found["penalty"].shape == (16,)


def test_a_condition_goes_to_both_nets():
    batch = Batch(jax.random.uniform(KEY, (8, 4, 4, 1)), jax.nn.one_hot(jnp.arange(8) % 2, 2))
    model = gan(*mlp_gan((4, 4, 1), shrink=64), latent_dim=3)
    params, state = model.init(jax.random.key(0), batch)
    assert params["generator"]["Dense_0"]["kernel"].shape[0] == 3 + 2
    assert params["discriminator"]["Dense_0"]["kernel"].shape[0] == 16 + 2
    a, b = (model.sample(params, state, KEY, 8, cond) for cond in (batch.cond, 1.0 - batch.cond))
    assert not np.allclose(a, b)


def test_eight_gans_train_in_one_program():
    def build(penalty):
        pair = nets.mlp((8,), 2), mlp_gan(2, output="linear", shrink=32)[1]
        return gan(*pair, latent_dim=2, loss="wgan_gp", penalty=penalty, every=2)

    ensemble = train_ensemble(
        build,
        optax.adam(1e-2),
        toy2d.toy("8gaussians").draw,
        seeds=range(4),
        hyper={"penalty": [1.0, 10.0]},
        steps=8,
        batch_size=16,
        log_every=4,
        steps_per_call=4,
        members="vmap",
    )
    assert len(ensemble.settings) == 8 and not ensemble.frozen
    losses = [metrics["discriminator_loss"] for metrics in ensemble.metrics]
    assert np.isfinite(losses).all() and len(set(losses)) == 8
    for leaf in jax.tree.leaves(ensemble.train_state.params):
        assert leaf.shape[0] == 8 and np.isfinite(leaf).all()


# ---- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
        ({"convention": "mine"}, "unknown convention"),
        ({"prior": "gaussian"}, "unknown prior"),
        ({"first": "encoder"}, "unknown first"),
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
        ({"every": 0}, "every must be at least 1"),
        ({"penalty": -1.0}, "penalty must be at least 0"),
        ({"first": "generator", "every": 2, "same_noise": True}, "no noise to hand on"),
    ],
)
def test_settings_that_no_gan_has_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        gan(constant(), linear(), **{"latent_dim": 2, **options})


def test_nets_and_data_that_do_not_fit_are_refused():
    batch = Batch(jnp.asarray(X))
    for generator, discriminator, x, message in (
        (constant(), nets.mlp((4,), 1), batch.x, "must return one number for each example"),
        (nets.mlp((4,), 3), linear(), batch.x, r"the data has \(2,\)"),
        (constant(), linear(), jnp.zeros((3, 2), jnp.uint8), "must be floating point"),
    ):
        with pytest.raises(UserError, match=message):
            gan(generator, discriminator, latent_dim=2).init(KEY, Batch(x))
    with pytest.raises(UserError, match="which BatchNorm in the discriminator couples"):
        gan(constant(), _normed(), latent_dim=2, loss="wgan_gp").init(KEY, batch)
    with pytest.raises(UserError, match="must be greater than 0"):
        clip_weights(0.0)
    with pytest.raises(UserError, match="unknown stats"):
        gan(constant(), linear(), latent_dim=2).sample({}, {}, KEY, 2, stats="own")
