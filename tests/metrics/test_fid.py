"""Distances under protocols: what is measured, that it does not depend on how, and what is
refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distances import ALL, ONE, SIZE, SQUEEZENET, WEIGHTS, by_hand, go, images, sampler, source
from jaxvae import data, parallel
from jaxvae.errors import UserError
from jaxvae.metrics import fid, frechet
from jaxvae.types import Batch
from small import small

pytestmark = pytest.mark.usefixtures("smaller")


def test_fid_and_kid_by_hand():
    """Samples of batch b have the key fold_in(key(seed), b); the last batch is cut."""
    drawn = [sampler(jax.random.fold_in(jax.random.key(7), b), 32, "running") for b in range(3)]
    fakes = by_hand(np.round(np.concatenate(drawn)[:SIZE] * 255))
    reals = by_hand(images())
    found = go(seed=7, metrics=("fid", "kid"))
    want = frechet.frechet_distance(
        fakes.mean(0), np.cov(fakes, rowvar=False), reals.mean(0), np.cov(reals, rowvar=False)
    )
    assert found["fid"].value == pytest.approx(want, rel=1e-4)
    values = frechet.kernel_distances(fakes, reals, subsets=5, size=30, seed=7)
    assert found["kid"].value == pytest.approx(values.mean(), rel=1e-4)
    assert found["kid"].error == pytest.approx(values.std(ddof=1), rel=1e-3)
    assert found["fid"][2:5] == (SIZE, SIZE, "squeezenet(samples=90,reals=90)")
    assert found["kid"].protocol == "squeezenet(samples=90,reals=90), 5 subsets of 30"
    options = {
        "weights": WEIGHTS,
        "seed": 7,
        "subsets": 5,
        "subset_size": 30,
        "batch_size": 32,
        "mesh": ALL,
    }
    assert fid.fid(source(), sampler, SQUEEZENET, **options).value == pytest.approx(
        found["fid"].value, rel=1e-5
    )
    assert fid.kid(source(), sampler, SQUEEZENET, **options).value == pytest.approx(
        found["kid"].value, rel=1e-5
    )


def test_a_distribution_is_nearer_to_itself():
    given = jnp.asarray(images(seed=1), jnp.float32) / 255

    def same(rng, n, stats):
        return given[jax.random.choice(rng, len(given), (n,))]

    at_once = go(draw=same, metrics=("kid",), subset_size=SIZE, subsets=3)["kid"]
    assert at_once.error is None  # one subset, three times
    near, far = go(draw=same, metrics=("fid", "kid")), go(metrics=("fid", "kid"))
    assert 0 < near["fid"].value < far["fid"].value / 2 and near["kid"].value < far["kid"].value / 2


@pytest.mark.parametrize("order", ["first", "shuffled"])
def test_statistics_do_not_depend_on_batches_devices_or_streaming(order):
    protocol = SQUEEZENET._replace(order=order, reals=70)
    options = {"weights": WEIGHTS, "cache": False}
    want = fid.statistics(source(), protocol, batch_size=64, mesh=ONE, **options)
    chosen = data.batch_indices(SIZE, 0, 0, 70) if order == "shuffled" else np.arange(70)
    by_net = by_hand(images()[chosen])
    np.testing.assert_allclose(want.mean, by_net.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(want.cov, np.cov(by_net, rowvar=False), rtol=1e-3, atol=1e-5)
    for real, size in ((source(), 64), (source(), 13), (source()._replace(arrays=None), 32)):
        found = fid.statistics(real, protocol, batch_size=size, **options)
        assert found.n == 70
        np.testing.assert_allclose(found.mean, want.mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.cov, want.cov, rtol=1e-3, atol=1e-6)


def test_parameters_of_a_sampler_are_not_constants_of_the_program(monkeypatch):
    """Wherever they lie: on one device, or cut over all."""
    programs = []
    monkeypatch.setattr(
        fid.jax.core,
        "eval_jaxpr",
        lambda jaxpr, consts, *a, eval_=jax.core.eval_jaxpr: (
            programs.append([isinstance(c, jax.core.Tracer) for c in consts])
            or eval_(jaxpr, consts, *a)
        ),
    )
    values = []
    for place in (jax.devices()[0], jax.devices()[5], parallel.batch_sharded(ALL)):
        scale = jax.device_put(jnp.linspace(0.2, 1.0, 8), place)
        values.append(
            go(draw=lambda *args, scale=scale: scale[:, None] * sampler(*args), mesh=ALL)[
                "fid"
            ].value
        )
    assert programs == [[True]] * 3
    np.testing.assert_allclose(values, values[0], rtol=1e-5)


def test_samplers_on_the_host_and_under_jit_agree():
    calls = []

    def host(rng, n, stats):
        calls.append(stats)
        return np.asarray(sampler(rng, n, stats)).astype(np.float64)  # cannot be traced

    assert go(draw=host)["fid"].value == pytest.approx(go()["fid"].value, rel=1e-5)
    assert calls.count("running") == len(calls) >= 3


@pytest.mark.parametrize("computed", [False, True])
def test_images_served_in_order_are_all_measured(computed):
    """A sampler that ignores its key, as a folder of files does: every batch is another one."""
    pool = jnp.asarray(images(96, seed=1), jnp.float32) / 255
    batches = iter(np.split(np.asarray(pool), 3))

    def served(rng, n, stats):
        x = next(batches)
        return jnp.clip(x, 0.0, 1.0) if computed else x

    fakes, reals = by_hand(np.round(pool[:SIZE] * 255)), by_hand(images())
    want = frechet.frechet_distance(
        fakes.mean(0), np.cov(fakes, rowvar=False), reals.mean(0), np.cov(reals, rowvar=False)
    )
    assert go(draw=served)["fid"].value == pytest.approx(want, rel=1e-4)


def test_model_sampler_draws_from_a_model():
    model = small()
    x = jnp.zeros((2, 4, 4, 1))
    params, state = model.init(jax.random.key(0), Batch(x))
    draw = fid.model_sampler(model, params, state)
    drawn = draw(jax.random.key(1), 5, "running")
    np.testing.assert_array_equal(drawn, model.sample(params, state, jax.random.key(1), 5))
    far = model._replace(
        sample=lambda params, state, rng, n, cond, stats: jnp.full((n, 4, 4, 1), 1.5)
    )
    assert float(fid.model_sampler(far, params, state)(jax.random.key(1), 5, "batch").max()) == 1.0
    seen = []
    labelled = model._replace(
        sample=lambda params, state, rng, n, cond, stats: (
            seen.append(cond) or jnp.zeros((n, 4, 4, 1))
        )
    )
    fid.model_sampler(labelled, params, state, 3)(jax.random.key(1), 300, "running")
    assert seen[0].shape == (300, 3) and (seen[0].sum(0) > 60).all() and (seen[0].sum(1) == 1).all()
    with pytest.raises(UserError, match="does not sample"):
        fid.model_sampler(model._replace(sample=None), params, state)


# ---- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw,message",
    [
        (
            lambda *a: 2.0 * sampler(*a) - 0.5,
            r"the sampler's images must be in \[0, 1\], and run from -0.4.* to 1.4",
        ),
        (
            lambda *a: sampler(*a).at[0, 0, 0, 0].set(jnp.nan),
            "the sampler's images hold values that are not finite",
        ),
        (
            lambda *a: sampler(*a)[..., :1],
            r"gives float32 \(32, 8, 8, 1\), the real images are \(8, 8, 3\)",
        ),
        (lambda *a: sampler(*a)[:, :4], "the real images are"),
        (lambda *a: sampler(*a)[:5], "the real images are"),
        (lambda *a: (255 * sampler(*a)).astype(jnp.uint8), "it must give floating point images"),
        (lambda *a: (sampler(*a), None), "the sampler gives None None"),
    ],
)
def test_samples_that_are_no_images(draw, message):
    for mesh in (ONE, ALL):
        with pytest.raises(UserError, match=message):
            go(draw=draw, mesh=mesh)


def test_rounding_at_the_ends_is_no_mistake():
    assert go(draw=lambda *a: jnp.clip(3 * sampler(*a) - 1, 0, 1) * (1 + 1e-6))["fid"].value > 0


def test_real_images_that_are_none():
    with pytest.raises(
        UserError, match=r"the images of mine must be in \[0, 1\], and run from [0-9]+ to 25"
    ):
        go(data.from_arrays(images().astype(np.float32), name="mine", split="test"))
    with pytest.raises(UserError, match=r"a FID is of images \[height, width, 1 or 3\]"):
        go(data.from_arrays(images()[..., :2], split="test"))
    with pytest.raises(UserError, match="unknown data set 'minst'"):
        go("minst")
    both = (images(), images().astype(np.float32) / 255)
    bytes_, floats = (go(data.from_arrays(x, split="test"))["fid"].value for x in both)
    assert bytes_ == pytest.approx(floats, rel=1e-5)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"metrics": ("fdi",)}, "unknown metric 'fdi'"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"weights": {}}, "weights of another model"),
        ({"metrics": ("kid",), "subset_size": 91}, "subsets of 91 images need"),
        ({"weights": "none.pth"}, "there is no file"),
        ({"metrics": ("kid",), "subset_size": 1}, "subset_size must be at least 2"),
        ({"weights": {**WEIGHTS, "0.bias": WEIGHTS["0.bias"] + np.inf}}, "not finite"),
    ],
)
def test_settings_that_cannot_work(options, message):
    with pytest.raises(UserError, match=message):
        go(**options)


def test_fewer_samples_than_dimensions_is_said_with_the_rank(capsys):
    assert go()["fid"].note == "" == capsys.readouterr().err
    for protocol, what in (
        (
            SQUEEZENET._replace(samples=10),
            "10 samples give a covariance of rank 9 in 32 dimensions",
        ),
        (
            SQUEEZENET._replace(reals=9),
            "9 real images give a covariance of rank 8 in 32 dimensions",
        ),
        (
            SQUEEZENET.with_samples(9),
            "9 samples give a covariance of rank 8 and 9 real images give",
        ),
    ):
        found = go(protocol=protocol)["fid"]
        assert what in found.note and found.value > 0
        assert capsys.readouterr().err == f"jaxvae: {protocol.label}: {found.note}\n"


# ---- the cache -----------------------------------------------------------------------------


def test_progress_counts_images():
    seen = []
    go(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(32, 180), (64, 180), (90, 180), (122, 180), (154, 180), (180, 180)]


def test_statistics_alone_report_progress_of_the_real_images():
    seen = []
    fid.statistics(
        source(),
        SQUEEZENET,
        weights=WEIGHTS,
        cache=False,
        batch_size=32,
        mesh=ONE,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(32, SIZE), (64, SIZE), (SIZE, SIZE)]
