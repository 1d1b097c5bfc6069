"""Distances under protocols: what is measured, that it does not depend on how, and what is
refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seeded
from jaxvae import data, parallel
from jaxvae.errors import UserError
from jaxvae.metrics import features, fid, frechet, protocols, squeezenet
from jaxvae.types import Batch
from small import precisions, small

WEIGHTS = seeded.state_dict(squeezenet.shapes())
SIZE, D = 90, 32
ONE = parallel.make_mesh(jax.devices()[:1])  # quicker than all of them, which a few tests take
ALL = parallel.make_mesh()
SQUEEZENET = fid.PROTOCOLS["squeezenet"].with_samples(SIZE)


@pytest.fixture(autouse=True)
def smaller(monkeypatch):
    """The extractor with smaller images and every 16th feature, so that tests are quick."""
    extractor = protocols.EXTRACTORS["squeezenet"]._replace(side=32, dimension=D, features=some)
    monkeypatch.setitem(protocols.EXTRACTORS, "squeezenet", extractor)


def some(params, x, *, stats="running"):
    return squeezenet.features(params, x, stats=stats)[:, ::16]


def images(n: int = SIZE, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Returns bytes [n, 8, 8, channels], smooth, so that features differ."""
    rng = np.random.default_rng(seed)
    corners = rng.random((n, 2, 2, channels))
    smooth = jax.image.resize(jnp.asarray(corners, jnp.float32), (n, 8, 8, channels), "linear")
    return np.rint(255 * np.asarray(smooth)).astype(np.uint8)


def source(n: int = SIZE, channels: int = 3, seed: int = 0) -> data.Source:
    return data.from_arrays(images(n, channels, seed), name="mine", split="test")


def sampler(rng, n, stats, channels=3):
    """Returns smooth images of another distribution."""
    return jax.image.resize(
        jax.random.uniform(rng, (n, 2, 2, channels)) ** 2, (n, 8, 8, channels), "linear"
    )


def go(real=None, draw=sampler, protocol=SQUEEZENET, metrics=("fid",), **options):
    options = {
        "weights": WEIGHTS,
        "cache": False,
        "subset_size": 30,
        "subsets": 5,
        "batch_size": 32,
        "mesh": ONE,
        **options,
    }
    return fid.compare(
        source() if real is None else real, draw, protocol, metrics=metrics, **options
    )


def by_hand(x: np.ndarray) -> np.ndarray:
    """Returns the features of pixels [n, 8, 8, 3] in [0, 255], without the code under test but for
    the net itself."""
    x = jax.image.resize(
        jnp.asarray(x, jnp.float32) / 255, (len(x), 32, 32, 3), "bilinear", antialias=False
    )
    x = (x - jnp.asarray([0.485, 0.456, 0.406], jnp.float32)) / jnp.asarray(
        [0.229, 0.224, 0.225], jnp.float32
    )
    with jax.default_matmul_precision("highest"):
        return np.asarray(some(squeezenet.from_state_dict(WEIGHTS), x), np.float64)


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
    own = jnp.asarray(images(seed=1), jnp.float32) / 255

    def same(rng, n, stats):
        return own[jax.random.choice(rng, len(own), (n,))]

    whole = go(draw=same, metrics=("kid",), subset_size=SIZE, subsets=3)["kid"]
    assert whole.error is None  # one subset, three times
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


def test_the_net_is_compiled_once(monkeypatch):
    traces = []
    extractor = protocols.EXTRACTORS["squeezenet"]

    def counted(params, x, *, stats):
        traces.append(x.shape)
        return some(params, x)

    monkeypatch.setitem(protocols.EXTRACTORS, "squeezenet", extractor._replace(features=counted))
    go(metrics=("fid", "kid"))
    assert traces == [(32, 32, 32, 3)]  # three batches of samples and three of real images


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


@pytest.mark.parametrize("setting", ["default", "bfloat16"])
def test_features_have_the_highest_precision_whatever_the_environment_says(setting):
    with jax.default_matmul_precision(setting):
        engine = features.make_engine(SQUEEZENET, WEIGHTS, 4, ONE, source())
        assert precisions(engine.features, jnp.zeros((4, 8, 8, 3))) == {"HIGHEST"}


def test_moments_of_batches_need_as_many_real_images():
    released = SQUEEZENET._replace(features="batch", batch_size=32, samples=40, reals=20)
    with pytest.raises(UserError, match="takes moments from batches of 32 images, mine test has 2"):
        go(source(20), protocol=released)


@pytest.mark.parametrize("host", [False, True])
def test_samples_are_drawn_at_the_highest_precision(host):
    """As the features are: a precision belongs to the call that traces a product, not to the one
    that runs it."""
    seen, outside = [], []

    def draw(*args):
        seen.append(jax.config.jax_default_matmul_precision)
        return np.asarray(sampler(*args)) if host else sampler(*args)

    with jax.default_matmul_precision("bfloat16"):
        go(draw=draw, progress=lambda *_: outside.append(jax.config.jax_default_matmul_precision))
    assert set(seen) == {"highest"} and set(outside) == {"bfloat16"}


def test_grey_is_three_equal_channels():
    """In the real images and in the samples."""
    grey = source(channels=1)
    colour = data.from_arrays(np.repeat(grey.arrays["x"], 3, axis=-1), split="test")
    one = go(grey, lambda *args: sampler(*args, channels=1), metrics=("fid", "kid"))
    three = go(
        colour, lambda *args: jnp.repeat(sampler(*args, channels=1), 3, -1), metrics=("fid", "kid")
    )
    for name in ("fid", "kid"):
        assert one[name].value == pytest.approx(three[name].value, rel=1e-4)
        assert (one[name].note, three[name].note) == (fid.GREY, "")
    assert "grey images as three equal channels" in SQUEEZENET.describe()


def test_what_becomes_of_pixels():
    x = jnp.asarray([0.0, 0.25, 0.5, 0.999], jnp.float32).reshape(1, 2, 2, 1)
    for pixels, want in (
        ("float", [0, 63.75, 127.5, 254.745]),
        ("round", [0, 64, 128, 255]),
        ("truncate", [0, 63, 127, 254]),
        ("stretch", [0, 63.8138, 127.6276, 255]),
    ):
        np.testing.assert_allclose(features.to_bytes(x, pixels).reshape(-1), want, rtol=1e-5)
    two = jnp.stack([x[0] * 0.5, jnp.full_like(x[0], 0.3)])
    np.testing.assert_allclose(
        features.to_bytes(two, "stretch")[0], features.to_bytes(x, "stretch")[0], rtol=1e-5
    )  # each its own
    np.testing.assert_array_equal(features.to_bytes(two, "stretch")[1], 0.0)


def test_stretched_samples_differ_real_images_do_not():
    released = SQUEEZENET._replace(pixels="stretch")
    half = [
        go(draw=lambda *args: 0.5 * sampler(*args), protocol=p)["fid"].value
        for p in (SQUEEZENET, released)
    ]
    full = [go(draw=sampler, protocol=p)["fid"].value for p in (SQUEEZENET, released)]
    assert half[1] == pytest.approx(full[1], rel=1e-3) and half[0] > 1.1 * full[0]
    same = [
        fid.statistics(source(), p, weights=WEIGHTS, cache=False).mean
        for p in (SQUEEZENET, released)
    ]
    np.testing.assert_array_equal(*same)


def test_modes_and_batches_of_a_protocol_reach_sampler_and_net(monkeypatch):
    """Soft-IntroVAE's: both nets with the moments of batches of 32, whatever batch size is asked
    for."""
    seen = []
    extractor = protocols.EXTRACTORS["squeezenet"]

    def extract(params, x, *, stats):
        seen.append(("net", len(x), stats))
        return some(params, x)

    def draw(rng, n, stats):
        seen.append(("sampler", n, stats))
        return sampler(rng, n, stats)

    monkeypatch.setitem(protocols.EXTRACTORS, "squeezenet", extractor._replace(features=extract))
    released = fid.PROTOCOLS["soft-intro-released"]._replace(
        extractor="squeezenet", split="test", samples=40, reals=40
    )
    assert go(draw=draw, protocol=released, batch_size=64)["fid"].n == 40
    assert set(seen) == {("net", 32, "batch"), ("sampler", 32, "batch")}


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


# ---- protocols -----------------------------------------------------------------------------


def test_protocols_are_those_of_their_papers():
    p = fid.PROTOCOLS
    assert [
        (
            name,
            x.extractor,
            x.samples,
            x.split,
            x.reals,
            x.order,
            x.pixels,
            x.generator,
            x.features,
            x.batch_size,
        )
        for name, x in p.items()
    ] == [
        (
            "standard",
            "inception",
            50_000,
            "train",
            None,
            "first",
            "round",
            "running",
            "running",
            None,
        ),
        (
            "two-stage-released",
            "inception-tf",
            10_000,
            "test",
            10_000,
            "shuffled",
            "stretch",
            "running",
            "running",
            None,
        ),
        (
            "lucic-2018",
            "inception-tf",
            10_000,
            "test",
            10_000,
            "first",
            "float",
            "running",
            "running",
            None,
        ),
        (
            "soft-intro-released",
            "inception",
            50_000,
            "train",
            50_000,
            "shuffled",
            "truncate",
            "batch",
            "batch",
            32,
        ),
        (
            "squeezenet",
            "squeezenet",
            10_000,
            "test",
            10_000,
            "first",
            "round",
            "running",
            "running",
            None,
        ),
    ]
    for name, protocol in p.items():
        assert protocol.label == name and protocol.describe().startswith(f"{name}: ")
        assert ("never comparable with a FID" in protocol.describe()) == (name == "squeezenet")


def test_a_changed_protocol_says_so():
    standard = fid.PROTOCOLS["standard"]
    assert (
        standard._replace(samples=5000, split="test").label == "standard(samples=5000,split=test)"
    )
    assert standard.with_samples(500).label == "standard(samples=500)"
    assert "500 samples against all of train" in standard.with_samples(500).describe()
    assert fid.PROTOCOLS["squeezenet"].with_samples(20_000).label == "squeezenet(samples=20000)"
    assert standard._replace(name="mine").label.startswith(
        "mine(extractor=inception,samples=50000,split=train"
    )
    assert (
        go(source()._replace(split="all"))["fid"].protocol
        == "squeezenet(samples=90,split=all,reals=90)"
    )


# ---- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "protocol,message",
    [
        (None, "needs a protocol, without which it compares with nothing. Choose from: standard,"),
        ("standrad", "unknown protocol 'standrad'. Did you mean 'standard'"),
        (SQUEEZENET._replace(pixels="rounded"), "unknown pixels of a protocol 'rounded'"),
        (SQUEEZENET._replace(samples=1), "samples must be at least 2"),
        (
            SQUEEZENET._replace(reals=100),
            r"asks for 100 real images, mine test has 90: use another split",
        ),
    ],
)
def test_protocols_that_do_not_exist(protocol, message):
    with pytest.raises(UserError, match=message):
        go(protocol=protocol)
    for function in (fid.fid, fid.kid):
        with pytest.raises(UserError, match="needs a protocol"):
            function(source(), sampler)


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


def test_statistics_of_real_images_are_kept(tmp_path, capsys):
    reads = []

    def counted(n=SIZE, seed=0):
        made = source(n, seed=seed)
        return made._replace(read=lambda indices: reads.append(len(indices)) or made.read(indices))

    def again(real=None, protocol=SQUEEZENET, **options):
        reads.clear()
        options = {"weights": WEIGHTS, "cache": tmp_path, "mesh": ONE, **options}
        value = fid.statistics(counted() if real is None else real, protocol, **options)
        return value, bool(reads), len(list(tmp_path.iterdir()))

    first, read, files = again()
    assert read and files == 1
    second, read, files = again(batch_size=13)
    assert not read and files == 1
    np.testing.assert_array_equal(first.cov, second.cov)
    assert not again(protocol=SQUEEZENET._replace(pixels="truncate", samples=50))[
        1
    ]  # of bytes they are the same
    other = {**WEIGHTS, "0.bias": WEIGHTS["0.bias"] + 1}
    for number, change in enumerate(
        (
            {"weights": other},
            {"protocol": SQUEEZENET._replace(reals=80)},
            {"real": counted(seed=1)},
            {"protocol": SQUEEZENET._replace(order="shuffled")},
            {"protocol": SQUEEZENET._replace(features="batch")},
            {"real": counted()._replace(split="valid")},
            {"real": counted()._replace(name="other")},
        ),
        2,
    ):
        _, read, files = again(**change)
        assert read and files == number, change
    for damage in (lambda b: b[:100], lambda b: b"", lambda b: b[:-400] + b"x" * 400):
        for path in tmp_path.iterdir():
            path.write_bytes(damage(path.read_bytes()))
        capsys.readouterr()
        third, read, _ = again()
        assert read and "is damaged" in capsys.readouterr().err
        np.testing.assert_allclose(third.cov, first.cov)
        assert not again()[1]


def test_a_cache_that_cannot_be_written_costs_nothing(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    found = fid.statistics(source(), SQUEEZENET, weights=WEIGHTS, cache=tmp_path / "file")
    assert (
        found.n == SIZE
        and "the statistics of mine are not kept: cannot write" in capsys.readouterr().err
    )


def test_where_statistics_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".cache" / "jaxvae" / "statistics"
    protocol = SQUEEZENET.with_samples(20)
    fid.statistics(source(), protocol, weights=WEIGHTS)  # arrays that a user passes in come and go
    fid.statistics("fake_mnist", protocol, weights=WEIGHTS, cache=False)
    assert not folder.exists()
    fid.statistics("fake_mnist", protocol, weights=WEIGHTS)
    fid.statistics(lambda split: data.load("fake_mnist", split), protocol, weights=WEIGHTS)
    assert [path.name.startswith("fake_mnist-test-squeezenet-") for path in folder.iterdir()] == [
        True
    ]


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
