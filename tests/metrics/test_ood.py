"""Out-of-distribution scores: areas and intervals by hand, the decoder's variance, sources that do
not fit."""

import math

import jax
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jaxvae import data
from jaxvae.errors import UserError
from jaxvae.metrics import likelihood, ood
from small import EXAMPLE, normed, small, source

PIXELS = 16


def bright(size=40):
    """Bytes unlike those of `source`."""
    rng = np.random.default_rng(9)
    return data.from_arrays(rng.integers(200, 256, (size, 4, 4, 1), dtype=np.uint8), name="bright")


def started(model):
    return model, *jax.jit(model.init)(jax.random.key(0), EXAMPLE)


# ---- areas ---------------------------------------------------------------------------------------


def test_area_and_interval_by_hand():
    """x = 3, 2, 2 and y = 1, 2: psi is 1 1, 1 1/2, 1 1/2, so A = 5/6, V = 1, 3/4, 3/4 and W = 1,
    2/3; var V = 1/48, var W = 1/18, Var A = 1/144 + 1/36 = 5/144."""
    found = ood.auroc([3, 2, 2], [1, 2])
    assert found.value == pytest.approx(5 / 6, abs=1e-12)
    assert found.error == pytest.approx(math.sqrt(5) / 12, abs=1e-12)
    assert found.low == pytest.approx(5 / 6 - 1.959963985 * math.sqrt(5) / 12, abs=1e-8)
    assert (found.high, found.level, found.inside, found.outside) == (1.0, 0.95, 3, 2)
    narrow = ood.auroc([3, 2, 2], [1, 2], level=0.5)
    assert narrow.high - narrow.value == pytest.approx(0.6744897502 * found.error, abs=1e-8)


def test_area_is_scikit_learns_and_its_error_that_of_all_pairs():
    rng = np.random.default_rng(0)
    for decimals in (0, 1, 8):  # many ties, some, none
        x, y = rng.normal(0.7, 1.0, 70).round(decimals), rng.normal(0.0, 1.5, 45).round(decimals)
        found = ood.auroc(x, y)
        truth, values = np.repeat([1, 0], [70, 45]), np.concatenate([x, y])
        assert found.value == pytest.approx(roc_auc_score(truth, values), abs=1e-12)
        psi = (x[:, None] > y) + 0.5 * (x[:, None] == y)
        error = math.sqrt(psi.mean(1).var(ddof=1) / 70 + psi.mean(0).var(ddof=1) / 45)
        assert found.error == pytest.approx(error, abs=1e-12)


def test_error_is_the_spread_of_areas_and_the_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    drawn = [ood.auroc(rng.normal(1.0, 1.0, 60), rng.normal(0.0, 1.0, 80)) for _ in range(1000)]
    truth = 0.5 * math.erfc(-0.5)  # P(x > y) with x - y ~ N(1, 2)
    values = np.array([a.value for a in drawn])
    assert values.mean() == pytest.approx(truth, abs=5e-3)
    assert np.mean([a.error for a in drawn]) == pytest.approx(values.std(), rel=0.1)
    assert np.mean([a.low <= truth <= a.high for a in drawn]) == pytest.approx(0.95, abs=0.03)


def test_areas_know_order_alone():
    rng = np.random.default_rng(1)
    x, y = rng.normal(0.5, 1, 30), rng.normal(0, 1, 20)
    found, other = ood.auroc(x, y), ood.auroc(y, x)
    assert other.value == pytest.approx(1 - found.value, abs=1e-12)
    assert other.error == pytest.approx(found.error, abs=1e-12)
    assert ood.auroc(np.exp(x), np.exp(y)) == found
    assert ood.auroc([1, 2, 3], [-np.inf, 0])[:4] == (1.0, 0.0, 1.0, 1.0)
    assert ood.auroc([0, 0, 0], [0, 0])[:4] == (0.5, 0.0, 0.5, 0.5)


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        (([1.0], [1.0, 2.0]), {}, "two examples or more on each side, not 1 and 2"),
        (([1.0, np.nan], [1.0, 2.0]), {}, "inside: 1 of 2 scores are not numbers"),
        (([1.0, 2.0], [[1.0], [2.0]]), {}, r"outside: scores must be \[n\], not shape \(2, 1\)"),
        (([1.0, 2.0], [1.0, 2.0]), {"level": 1.0}, "level must be below 1"),
    ],
)
def test_scores_that_have_no_area(args, options, message):
    with pytest.raises(UserError, match=message):
        ood.auroc(*args, **options)


# ---- scores --------------------------------------------------------------------------------------


def test_scores_are_those_of_the_likelihoods_page():
    trained = started(small(likelihood="gaussian", gamma=0.5))
    terms = likelihood.make_terms(trained[0])
    elbo = likelihood.per_example(terms, *trained[1:], source(), batch_size=32)["elbo"]
    found = ood.scores(*trained, source(), batch_size=32)
    np.testing.assert_array_equal(found.values, elbo)
    assert found.source == "arrays all" and found.values.dtype == np.float64
    assert found.protocol == (
        "nats per example, ELBO, one draw of z, decoder variance 0.5, running statistics"
    )
    bound = likelihood.iw_bound(*trained, source(), k=5, batch_size=32)
    found = ood.scores(*trained, source(), score="iw", batch_size=32)
    np.testing.assert_array_equal(found.values, bound)
    assert found.protocol == (
        "nats per example, importance-weighted log-likelihood, K=5, decoder variance 0.5, running "
        "statistics"
    )
    learned = ood.scores(*started(small(likelihood="gaussian", gamma="learned")), source())
    assert "decoder variance 1," in learned.protocol
    assert "decoder Bernoulli, running" in ood.scores(*started(small()), source()).protocol


def test_another_variance_by_hand():
    """rec = 1/2 (error / gamma + n log(2 pi gamma)), with the same draw of z."""
    trained = started(small(likelihood="gaussian", gamma=0.5))
    terms = likelihood.per_example(likelihood.make_terms(trained[0]), *trained[1:], source())
    error = 2 * terms["rec"] * 0.5 - 0.5 * PIXELS * math.log(2 * math.pi * 0.5)
    want = -0.5 * (error / 0.01 + PIXELS * math.log(2 * math.pi * 0.01)) - terms["kl"]
    found = ood.scores(*trained, source(), gamma=0.01)
    np.testing.assert_allclose(found.values, want, rtol=1e-5)
    assert "decoder variance 0.01," in found.protocol
    bound = ood.scores(*trained, source(), score="iw", k=50, gamma=0.01).values
    assert bound.mean() > found.values.mean()
    with pytest.raises(UserError, match="gamma must be greater than 0"):
        ood.scores(*trained, source(), gamma=0.0)


def test_batch_statistics_are_told_apart():
    trained = started(normed(likelihood="gaussian", gamma=0.5))
    running, batch = (
        ood.scores(*trained, source(), batch_size=30, stats=s) for s in ("running", "batch")
    )
    assert running.protocol.endswith(", running statistics")
    assert batch.protocol.endswith(", batch statistics of 30 examples")
    assert np.abs(running.values - batch.values).max() > 0.1
    with pytest.raises(UserError, match="unknown stats"):
        ood.scores(*trained, source(), stats="train")


def test_detection():
    """A decoder that starts near 0 finds bright images the less likely."""
    trained = started(small(likelihood="gaussian", gamma=0.5))
    calls = {"score": "iw", "k": 3, "gamma": 0.1, "batch_size": 32}
    found = ood.detect(*trained, source(), bright(), level=0.9, **calls)
    assert found.auroc == ood.auroc(found.inside, found.outside, level=0.9)
    assert (found.auroc.inside, found.auroc.outside) == (100, 40)
    assert found.auroc.low > 0.95
    again = ood.detect(*trained, bright(), source(), **calls)
    assert again.auroc.value == pytest.approx(1 - found.auroc.value, abs=1e-12)
    assert found.protocol == (
        "AUROC of arrays all against bright all by nats per example, importance-weighted "
        "log-likelihood, K=3, decoder variance 0.1, running statistics; DeLong interval of 0.9"
    )


@pytest.mark.parametrize("score", ood.SCORES)
def test_all_sources_of_a_shape_share_one_program(score):
    """Two that fill a batch, scored as each alone; one that does not is compiled by itself."""
    model, params, state = started(small(likelihood="gaussian", gamma=0.5))
    traces = []

    def terms(*args, **options):
        traces.append("terms")
        return model.terms(*args, **options)

    def decode(*args, **options):
        traces.append("decode")
        return model.decode(*args, **options)

    counted = model._replace(terms=terms, decode=decode)
    measure = ood.make_scores(counted, params, state, score=score, k=3, batch_size=32)
    sources = bright(), bright(70)._replace(name="other"), bright(32)
    found = [measure(sources[0])]
    assert traces.count("terms") == (score == "elbo")
    assert traces.count("decode") == (score == "iw") + 2  # what the decoder is, and its variance
    found += [measure(each) for each in sources[1:]]
    assert len(traces) == 3
    for each, of in zip(sources, found, strict=True):
        alone = ood.scores(model, params, state, each, score=score, k=3, batch_size=32)
        np.testing.assert_array_equal(of.values, alone.values)
        assert of[1:] == alone[1:]
    assert len(measure(bright(20)).values) == 20
    assert traces.count("terms") == 2 * (score == "elbo")


def test_models_and_options_that_do_not_fit():
    trained = started(small())
    with pytest.raises(UserError, match="unknown score 'elbow'. Did you mean 'elbo'"):
        ood.scores(*trained, source(), score="elbow")
    with pytest.raises(UserError, match="k must be at least 1"):
        ood.scores(*trained, source(), score="iw", k=0)
    model = trained[0]
    with pytest.raises(UserError, match="need a model that encodes and decodes"):
        ood.scores(model._replace(encode=None), *trained[1:], source())
    weighted = model._replace(log_weight=lambda *args, **options: None)
    with pytest.raises(UserError, match="leave gamma out"):
        ood.scores(weighted, *trained[1:], source(), gamma=0.1)


# ---- histograms ----------------------------------------------------------------------------------


def test_histograms_by_hand():
    found = ood.histograms({"a": [0.0, 1.0, 1.5, 4.0], "b": [3.0, -np.inf]}, bins=2)
    np.testing.assert_allclose(found.edges, [0, 2, 4])
    np.testing.assert_allclose(found.densities["a"], [3 / 8, 1 / 8])
    np.testing.assert_allclose(found.densities["b"], [0, 1 / 4])
    assert found.left_out == {"a": 0, "b": 1}
    found = ood.histograms({"a": [0.0, 1.0, 5.0]}, bins=1, limits=(0.5, 2.5))
    np.testing.assert_allclose(found.densities["a"], [1 / 6])
    assert found.left_out == {"a": 2}
    found = ood.histograms({"a": [2.0, 2.0]}, bins=1)
    np.testing.assert_allclose((*found.edges, *found.densities["a"]), [1.5, 2.5, 1.0])
    with pytest.raises(UserError, match="no finite scores"):
        ood.histograms({"a": [np.inf]})
    with pytest.raises(
        UserError, match="limits must be two numbers, the lower one first, not 2, 1"
    ):
        ood.histograms({"a": [1.0]}, limits=(2.0, 1.0))


# ---- sources -------------------------------------------------------------------------------------


def test_sources_of_different_shapes_are_refused_with_an_offer():
    trained = started(small(likelihood="gaussian", gamma=0.5))
    rng = np.random.default_rng(0)
    colours = data.from_arrays(rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8), name="colours")
    message = (
        r"arrays has examples of 4x4x1, colours of 8x8x3: .*ood.converted\(source, \(4, 4, 1\)\)"
    )
    with pytest.raises(UserError, match=message):
        ood.detect(*trained, source(), colours)
    fitting = ood.converted(colours, (4, 4, 1))
    assert (fitting.shape, fitting.name, fitting.size) == ((4, 4, 1), "colours as 4x4x1", 6)
    found = ood.detect(*trained, source(), fitting)
    assert found.auroc.outside == 6 and "colours as 4x4x1 all" in found.protocol


def test_conversion_by_hand():
    rng = np.random.default_rng(0)
    grey, colours = (rng.integers(0, 256, (3, 4, 4, c), dtype=np.uint8) for c in (1, 3))
    label = np.array([0, 1, 2])
    one = ood.converted(data.from_arrays(grey, label), (4, 4, 3)).read(np.array([2, 0]))
    np.testing.assert_array_equal(one["x"], np.repeat(grey[[2, 0]], 3, axis=-1))
    np.testing.assert_array_equal(one["label"], [2, 0])
    luma = ood.converted(data.from_arrays(colours), (4, 4, 1)).read(np.arange(3))["x"]
    np.testing.assert_array_equal(luma[..., 0], np.round(colours @ np.array([0.299, 0.587, 0.114])))
    assert luma.dtype == np.uint8
    flat = np.full((2, 4, 4, 1), 7, np.uint8)
    larger = ood.converted(data.from_arrays(flat), (8, 8, 3)).read(np.arange(2))["x"]
    np.testing.assert_array_equal(larger, np.full((2, 8, 8, 3), 7))
    same = data.from_arrays(grey)
    assert ood.converted(same, (4, 4, 1)) is same


@pytest.mark.parametrize(
    ("x", "shape", "message"),
    [
        (np.zeros((2, 4, 4, 2), np.uint8), (4, 4, 1), "only images"),
        (np.zeros((2, 5), np.uint8), (4, 4, 1), "only images"),
        (np.zeros((2, 4, 4, 1), np.uint8), (4, 4, 2), "only images"),
        (np.zeros((2, 4, 4, 1), np.uint8), (0, 4, 1), "a side of the image"),
        (np.zeros((2, 4, 4, 1), np.float32), (4, 4, 3), "only images of bytes"),
    ],
)
def test_what_cannot_be_converted(x, shape, message):
    with pytest.raises(UserError, match=message):
        ood.converted(data.from_arrays(x), shape)
