"""The preset `two_stage_vae`: the published nets, mistakes, and nothing heavy until it is built."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from commands import refused
from jaxvae import Batch
from jaxvae.presets import stages
from jaxvae.presets.two_stage_options import TwoStageVAE
from jaxvae.presets.two_stage_vae import PRESET


def test_defaults_are_the_published_nets():
    model = PRESET.build(TwoStageVAE(workdir=Path("run")), (28, 28, 1), 10).model
    params, _ = jax.eval_shape(
        model.init, jax.random.key(0), Batch(jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32))
    )
    count = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in params.items()}
    assert count["first"] == 13_331_585 + 1  # the net's, and gamma
    assert params["second"]["encoder"]["Dense_1"]["kernel"].shape == (1024, 1024)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--second-steps", "0"], "--second-steps must be at least 1, not 0"),
        (
            ["--second-steps", "3", "--second-epochs", "2"],
            "give --second-steps or --second-epochs, not both",
        ),
        (["--second-width", "0"], "--second-width must be at least 1, not 0"),
        (["--second-depth", "0"], "--second-depth must be at least 1, not 0"),
        (["--gamma-learning-rate", "0"], "--gamma-learning-rate must be greater than 0"),
        (
            ["--hidden", "16"],
            "--net infogan has layers of its own: leave out --hidden, or use --net mlp or conv",
        ),
        (
            ["--conditional"],
            "--net infogan takes no labels: use --net mlp, conv or intro with --conditional",
        ),
        (["--accumulate", "3"], "cannot be cut into 3 equal parts, as accumulate says"),
        (["--batch-size", "30"], "30"),
        (["--gamma", "0.5", "--likelihood", "bernoulli"], "use --likelihood gaussian with it"),
        (
            ["--data", "npz:{odd}"],
            "takes images whose sides 4 divides, not 9x9: resize them. Or use --net mlp or conv.",
        ),
        (
            ["--data", "npz:{vectors}"],
            "needs images (height, width, channels), not shape (5,). Or use --net mlp or conv.",
        ),
    ],
)
def test_mistake_ends_with_one_line_and_nothing_written(tmp_path, capsys, more, message):
    np.savez(tmp_path / "odd.npz", x=np.zeros((40, 9, 9, 1), np.uint8))
    np.savez(tmp_path / "vectors.npz", x=np.zeros((40, 5), np.float32))
    places = {name: tmp_path / f"{name}.npz" for name in ("odd", "vectors")}
    more = [word.format(**places) for word in more]
    assert message in refused(
        capsys,
        "train",
        "two_stage_vae",
        "--workdir",
        tmp_path / "run",
        "--no-progress",
        *more,
        silent=False,
    )
    assert not (tmp_path / "run").exists()


def test_its_functions_are_those_of_stages_once_they_are_called(monkeypatch):
    """What trains is imported when it is needed: help answers at once."""
    monkeypatch.setattr(stages, "train", lambda *args: ("trained", *args))
    monkeypatch.setattr(stages, "load", lambda *args: ("loaded", *args))
    assert PRESET.train("config", "system") == ("trained", "config", "system")
    assert PRESET.load("folder", 3) == ("loaded", "folder", 3)
    assert PRESET.stages == ("first", "second")
