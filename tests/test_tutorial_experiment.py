"""The tutorial's experiment: the proof's numbers against closed forms, its cells and its figures."""

import numpy as np
import pytest
from scipy import special

from experiments import runner
from experiments.budgets import Budget, check_budget
from experiments.tutorial import cells, figures, proof, setting
from experiments.tutorial.proof import DENSITIES, Density
from jaxvae import table, writers
from jaxvae.errors import UserError

Z = np.linspace(-5.0, 5.0, 41)


def test_f_is_the_inverse_distribution_function():
    """F(f(z)) = G(z), and x = f(z) has the density: f' = N(z; 0, 1) / p_gt(f(z))."""
    x = DENSITIES["two_normals"].f(Z)
    cdf = special.ndtr((x[:, None] - proof.MEANS) / proof.SDS) @ proof.WEIGHTS
    np.testing.assert_allclose(cdf[Z < 0], special.ndtr(Z[Z < 0]), rtol=1e-12)
    np.testing.assert_allclose(cdf, special.ndtr(Z), rtol=1e-12)
    x = DENSITIES["logistic"].f(Z)
    np.testing.assert_allclose(special.expit(x), special.ndtr(Z), rtol=1e-12)
    for density in DENSITIES.values():
        slope = (density.f(Z + 1e-5) - density.f(Z - 1e-5)) / 2e-5
        want = np.exp(proof.log_normal(Z) - density.log_pdf(density.f(Z)))
        np.testing.assert_allclose(slope, want, rtol=1e-6)


def test_a_linear_f_has_the_errors_of_two_gaussians():
    """With p_gt = N(0, s^2) everything is Gaussian: p = N(0, s^2 + sigma^2), and p(z | x) has the
    variance sigma^2 / (s^2 + sigma^2) and the mean x s / (s^2 + sigma^2)."""
    s, sigma = 1.7, 0.4
    density = Density(lambda x: proof.log_normal(x / s) - np.log(s), lambda z: s * z)
    total = s**2 + sigma**2
    x, mean, variance = s * Z, Z, (sigma / s) ** 2
    exact = x * s / total, sigma**2 / total
    kl = np.log(exact[1] / variance) / 2 - 0.5
    kl = kl + (variance + (mean - exact[0]) ** 2) / (2 * exact[1])
    np.testing.assert_allclose(proof.posterior_kl(density, sigma, Z), kl, rtol=1e-9, atol=1e-12)
    found = proof.errors(density, sigma)
    of_fit = 0.5 * (s**2 / total - 1.0 - np.log(s**2 / total))
    assert found["kl_fit"] == pytest.approx(of_fit, rel=1e-9)
    of_posterior = np.log(exact[1] / variance) / 2 - 0.5
    of_posterior += (variance + (sigma**2 / total) ** 2) / (2 * exact[1])  # E z^2 = 1
    assert found["kl_posterior"] == pytest.approx(of_posterior, rel=1e-9)


def test_the_model_of_a_mixture_is_a_mixture():
    density = DENSITIES["two_normals"]
    x = np.linspace(-4.0, 4.0, 50)
    for sigma in (1.0, 0.1):
        sds = np.sqrt(proof.SDS**2 + sigma**2)
        each = proof.log_normal((x[:, None] - proof.MEANS) / sds) + np.log(proof.WEIGHTS / sds)
        want = special.logsumexp(each, axis=1)
        np.testing.assert_allclose(proof.model_log_pdf(density, sigma, x), want, atol=1e-12)


def test_both_errors_vanish_with_sigma():
    """As sigma^2 and sigma^4; the second's factor is E (p_gt'' / p_gt)^2 / 8, which is 1/40 for the
    logistic density, where p'' / p = 1 - 6 F (1 - F)."""
    found = [proof.errors(DENSITIES["logistic"], sigma) for sigma in (0.01, 0.001)]
    assert found[0]["kl_fit"] == pytest.approx(0.025 * 0.01**4, rel=1e-3)
    assert found[0]["kl_posterior"] / found[1]["kl_posterior"] == pytest.approx(100.0, rel=1e-3)
    small = proof.errors(DENSITIES["two_normals"], 0.03, 501)
    large = proof.errors(DENSITIES["two_normals"], 0.3, 501)
    assert 0.0 < 50 * small["kl_posterior"] < large["kl_posterior"]
    assert 0.0 < 5000 * small["kl_fit"] < large["kl_fit"]


def test_cells_and_published_numbers():
    expected = writers.read_json(cells.FOLDER / "expected.json")
    table.join([], expected)
    names = [cell.name for cell in cells.cells(1.0)]
    assert len(names) == len(set(names)) == 2 * 7 + 4 + 5
    assert Budget().of(setting.STEPS) == 60_000 and Budget().suffix == ""
    assert check_budget(0.25, "steps").suffix == ", 25 % of the steps"
    assert check_budget(0.25).of(setting.STEPS) == 15_000
    with pytest.raises(UserError, match="--budget must be at most 1"):
        cells.cells(1.5)


@pytest.mark.long
def test_completions_are_measured_and_drawn(tmp_path, monkeypatch, capsys):
    """Both methods on embedded digits, as the command runs them; a kept run is drawn."""
    monkeypatch.setattr(cells, "FOLDER", tmp_path)
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    monkeypatch.setattr(cells, "source", lambda split, smoke: DIGITS(split, smoke=True))
    monkeypatch.setattr(setting, "BATCH_SIZE", 32)
    monkeypatch.setattr(cells, "BATCH_SIZE", 32)
    monkeypatch.setattr(cells.doersch, "WIDTHS", setting.SMALL)
    monkeypatch.setattr(setting, "STEPS", 2)
    argv = ["--cell", "mnist/left/*", "--budget", "0.5"]
    runner.main(tmp_path, cells.cells, argv, OPTIONS)
    lines = [line for path in (tmp_path / "results").glob("*.jsonl") for line in writers.read(path)]
    found = {(line["cell"].split("/")[-1], line["metric"]): line for line in lines}
    assert set(found) == {
        *(("cvae", m) for m in ("elbo", "rec", "kl", "best_of_k", "mean_error", "diversity")),
        *(("regressor", m) for m in ("log_prob", "best_of_k", "mean_error", "diversity")),
    }
    assert found["regressor", "diversity"]["value"] < 1e-10 < found["cvae", "diversity"]["value"]
    assert all(line["protocol"].endswith(", 50 % of the steps") for line in lines)
    assert all("given the left, grey" in line["protocol"] for line in lines)
    capsys.readouterr()
    figures.main(["--budget", "0.5"])
    assert capsys.readouterr().out.split() == ["figures/ring.png", "figures/left.png"]
    assert (tmp_path / "figures" / "left.png").is_file()


DIGITS = cells.source
OPTIONS = (runner.Option("budget", 1.0, float, "share"),)


def test_a_smoke_run_of_the_proof_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    monkeypatch.setattr(proof, "POINTS", 101)
    runner.main(tmp_path, cells.cells, ["--smoke", "--cell", "proof/logistic/*"], OPTIONS)
    assert set(figures.errors("smoke")) == {"logistic"}
    assert len(figures.errors("smoke")["logistic"]["kl_fit"]) == len(proof.SIGMAS)
    assert figures.proof_figure(tmp_path / "proof.png", "smoke")
    assert not figures.proof_figure(tmp_path / "none.png", "results")
