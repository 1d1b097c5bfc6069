"""The benchmark of devices: the same step on any number of them, in both forms."""

import json

import jax
import numpy as np
import pytest

from benchmarks import measure, scaling
from benchmarks.contest import Result


@pytest.mark.parametrize("name", ["vae", pytest.param("soft_intro_vae", marks=pytest.mark.slow)])
def test_a_step_is_the_same_on_all_devices_in_both_forms(name, monkeypatch):
    monkeypatch.setattr(scaling, "SIZES", {name: 16})
    losses = {}
    for count in (1, 4):
        for form in scaling.FORMS:
            advance = scaling.stepper(name, jax.devices()[:count], form)
            advance()
            losses[count, form] = {key: float(mean) for key, mean in advance().items()}
    first = losses[1, "jit"]
    for found in losses.values():
        for key, value in first.items():
            np.testing.assert_allclose(found[key], value, rtol=2e-4, atol=1e-5, err_msg=key)


def test_rates_are_kept_and_shown_in_units_of_one_device(tmp_path, monkeypatch, capsys):
    def contest(builds, rounds):
        rates = {
            name: [100.0 / int(name.split("/")[1])] * rounds for name in builds
        }  # half of it on two
        return Result(rates, dict.fromkeys(builds, 100.0), {}, {}, {})

    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(scaling.contest, "contest", contest)
    scaling.main(["--rounds", "2", "--devices", "1", "2"])
    kept = json.loads((tmp_path / "scaling.cpu.json").read_text())
    assert kept["devices_used"] == [1, 2] and len(kept["rates"]) == 8
    assert kept["command"].endswith("--devices 1 2")
    capsys.readouterr()
    scaling.main(["--table"])
    head, _, *rows, _, _ = capsys.readouterr().out.strip().splitlines()
    assert head.endswith("| images/s of one | on 1 | on 2 |") and len(rows) == 4
    assert all(row.endswith("| 100 | 1.00 | 0.50 |") for row in rows)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--devices", "3"], "--devices 3 does not divide [512, 1024] images."),
        (["--devices", "0"], "--devices must be"),
        (["--rounds", "0"], "--rounds must be"),
    ],
)
def test_what_cannot_be_measured_is_one_line(words, said, capsys):
    with pytest.raises(SystemExit) as end:
        scaling.main(words)
    assert end.value.code == 2 and said in capsys.readouterr().err
