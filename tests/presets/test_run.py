"""A run of a preset: what makes it the same run, and what of its options training is told."""

from pathlib import Path

import pytest

from jaxvae.errors import UserError
from jaxvae.presets import run
from jaxvae.presets.config import VAE, Data, System
from jaxvae.presets.two_stage_options import TwoStageVAE
from jaxvae.train.folder import LENGTH
from small import small, source


def test_a_run_is_known_by_its_options_and_its_data_but_not_by_its_length():
    mark = run.identity(VAE(workdir=Path("run"), steps=3, latent_dim=5), source())
    assert mark.config["latent_dim"] == 5
    assert (mark.config["shape"], mark.config["num_classes"]) == ([4, 4, 1], 3)
    assert "workdir" not in mark.config and mark.defaults["latent_dim"] == 10
    assert tuple(mark.may_differ) == LENGTH
    two = run.identity(TwoStageVAE(workdir=Path("run")), source())
    assert tuple(two.may_differ) == (*LENGTH, "second_steps", "second_epochs")


@pytest.fixture
def told(monkeypatch):
    """What `fit` is called with."""
    seen = {}

    def fit(model, tx, source, **options):
        seen.update(options, model=model, tx=tx, source=source)
        return "fit"

    monkeypatch.setattr(run, "fit", fit)
    return seen


def test_training_is_told_what_the_options_say(told, tmp_path):
    config = VAE(tmp_path, batch_size=16, seed=3, keep=5, ema_decay=0.9, save_every=7, patience=4)
    system = System(small(), "tx", preprocess="preprocess", augment="augment")
    data = Data(source(0), source(1), source(2))
    assert run.train(config, system, data, (100,)) == "fit"
    names = (
        "batch_size",
        "seed",
        "keep",
        "ema_decay",
        "save_every",
        "accumulate",
        "max_grad_norm",
        "patience",
    )
    assert {name: told[name] for name in names} == {name: getattr(config, name) for name in names}
    assert (told["model"], told["tx"], told["workdir"]) == (system.model, "tx", tmp_path)
    assert (told["source"], told["valid"]) == (data.train, data.valid)
    assert (told["preprocess"], told["augment"]) == ("preprocess", "augment")
    assert (told["steps"], told["eval_every"], told["on_log"]) == (100, 10, None)  # ten a run
    assert told["config"] == run.identity(config, data.train)


def test_a_batch_of_which_a_loss_needs_the_whole_is_not_cut():
    system = System(small())
    run.check_accumulate(VAE(Path("run"), accumulate=2), system)
    coupled = System(small(aggregate=lambda rng, z: z.sum()))
    run.check_accumulate(VAE(Path("run")), coupled)
    with pytest.raises(UserError, match=r"--accumulate 2 cuts .* model's loss is of the whole"):
        run.check_accumulate(VAE(Path("run"), accumulate=2), coupled)


def test_a_model_with_nothing_to_measure_is_trained_without_validation(told, tmp_path):
    silent = System(small()._replace(terms=None))
    run.train(VAE(tmp_path), silent, Data(source(0), source(1), source(2)), (3,))
    assert told["valid"] is None and told["eval_every"] == 1


def test_phases_take_the_place_of_model_and_steps(told, tmp_path):
    system = System(small(), phases=lambda steps, size: [("phase", steps, size)])
    run.train(VAE(tmp_path), system, Data(source(0), source(1), source(2)), (50,))
    assert told["model"] == [("phase", 50, 100)] and told["steps"] is None
