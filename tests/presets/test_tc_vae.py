"""The preset `tc_vae` by the command line, on shapes whose factors are known: its loss knows how many
examples there are, and `evaluate` scores what it found."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvae
from jaxvae import data, models, nets, writers
from jaxvae.cli.main import main
from jaxvae.data import shapes
from jaxvae.errors import UserError
from jaxvae.presets import measure
from jaxvae.presets.tc_vae import TCVAE, build
from jaxvae.types import Batch

WORDS = ["--hidden", "4", "--latent-dim", "2", "--batch-size", "32", "--estimator", "mss"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tc") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(shapes.COUNTS, "train", 1024)
        patch.setitem(shapes.COUNTS, "test", 512)
        words = ["train", "tc_vae", "--data", "shapes", *WORDS, "--steps", "4", "--no-progress"]
        assert main([*words, "--log-every", "2", "--workdir", str(folder)]) == 0
        yield folder
    shapes.read.cache_clear()


@pytest.mark.long
def test_the_log_has_the_parts(run):
    last = [line for line in writers.read(run / "metrics.jsonl") if line["split"] == "train"][-1]
    parts = [last[n] for n in ("mutual_information", "total_correlation", "marginal_kl")]
    assert np.isfinite(parts).all()
    model, params, state = jaxvae.load(run)
    assert model.sample(params, state, jax.random.key(0), 3).shape == (3, 64, 64, 1)


@pytest.mark.long
def test_evaluate_measures_the_gap_and_says_how(run):
    assert main(["evaluate", str(run), "--metrics", "mig"]) == 0
    (row,) = json.loads((run / "evaluation.json").read_text())["metrics"]
    assert 0.0 <= row["value"] <= 1.0 and row["n"] == 10_000
    assert "20 equal bins" in row["protocol"]


@pytest.mark.long
def test_evaluate_measures_disentanglement_completeness_and_informativeness(run, capsys):
    assert main(["evaluate", str(run), "--metrics", "dci", "mig"]) == 0
    rows = json.loads((run / "evaluation.json").read_text())["metrics"]
    names = ["mig", "disentanglement", "completeness", "informativeness"]
    assert [row["metric"] for row in rows] == names
    assert [row["n"] for row in rows] == [10_000, 10_000, 10_000, 5_000]
    assert all(-0.01 < row["value"] <= 1.0 for row in rows)
    assert "lasso" in rows[1]["protocol"] and "1 - NRMSE" in rows[3]["protocol"]
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert len(said) == 4 and len({line.index(line.split()[1]) for line in said}) == 1  # a column


def test_scores_need_known_factors():
    system = build(TCVAE(workdir=Path("run")), (8, 8, 1), None)
    with pytest.raises(UserError, match="beta_vae_score need data whose factors are known"):
        measure.check(system, data.load("digits", "test"), ("beta_vae_score",), measure.Setting())
    with pytest.raises(UserError, match="dci need data whose factors are known"):
        measure.check(system, data.load("digits", "test"), ("dci",), measure.Setting())


def test_the_loss_in_training_has_the_size_of_the_training_split():
    config = TCVAE(workdir=Path("run"), hidden=(4,), latent_dim=2, batch_size=8)
    config.check()
    system = build(config, (2, 2, 1), None)
    batch = Batch(jax.random.uniform(jax.random.key(2), (8, 2, 2, 1)))
    (phase,) = system.phases(10, 1000)
    pair = nets.mlp((4,), 4, heads=2), nets.mlp((4,), (2, 2, 1))
    same = models.tc_vae(*pair, latent_dim=2, data_size=1000)

    @jax.jit
    def losses():
        params, state = system.model.init(jax.random.key(0), batch)
        args = (params, state, jax.random.key(1), batch, jnp.int32(0), None)
        return [m.objectives[0].loss(*args)[0] for m in (phase.model, same, system.model)]

    found, want, other = losses()
    assert float(found) == pytest.approx(float(want), rel=1e-6)
    assert abs(float(found) - float(other)) > 1.0  # constants of mws: log 1000 and log 8


def test_options_in_vain_are_refused():
    with pytest.raises(UserError, match="leave out --free-bits"):
        TCVAE(workdir=Path("run"), free_bits=0.1).check()
    config = TCVAE(workdir=Path("run"), convention="released")
    with pytest.raises(UserError, match="--convention released is of --estimator mss"):
        config.check()
    with pytest.raises(UserError, match="convention is of mss"):
        build(config, (2, 2, 1), None)
