"""The benchmark of devices: the same step on any number of them, in both forms."""

import json
import subprocess
import sys

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


@pytest.mark.parametrize("form", scaling.FORMS)
def test_nothing_comes_from_the_host_at_a_step(form, monkeypatch):
    monkeypatch.setattr(scaling, "SIZES", {"vae": 16})
    advance = scaling.stepper("vae", jax.devices()[:2], form)
    advance()
    with jax.transfer_guard_host_to_device("disallow_explicit"):
        advance()


def test_a_program_has_its_devices_and_says_where_there_are_too_few():
    program = """
import sys
import jax
from benchmarks import scaling
scaling.SIZES["vae"] = 16
print(scaling.program("vae", 2, "jit", 0.05).run() > 0, jax.device_count())
scaling.program("vae", 4, "jit", 0.05)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["True", "2"]
    assert "jax_num_cpu_devices" in done.stderr or "there are 2 devices, not 4" in done.stderr


def keep(folder, platform, counts, rate):
    rates = {
        f"{name}/{count}/{form}": dict.fromkeys(("median", "min", "max"), rate / count)
        for name in scaling.SIZES
        for count in counts
        for form in scaling.FORMS
    }
    page = {"device": "A", "cores": 2, "platform": platform, "devices_used": counts, "rates": rates}
    page["alone"] = {"vae/8/jit": rate / 16}  # half of what it reached beside the others
    (folder / f"scaling.{platform}.json").write_text(json.dumps(page))


def test_rates_of_several_machines_are_one_table(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    assert scaling.table() == measure.NOTHING
    keep(tmp_path, "cpu", [1, 2, 8], 800.0)
    keep(tmp_path, "gpu", [1, 4], 80.0)
    head, _, *rows, _, said, _, again, _, note = scaling.table().splitlines()
    assert head.endswith("| images/s of one | on 1 | on 2 | on 4 | on 8 |")
    assert rows[0] == "| A, 2 cores | vae | jit | 800 | 1.00 | 0.50 |  | 0.12 [1] |"
    assert rows[-1] == "| A | soft_intro_vae | pmap | 80 | 1.00 |  | 0.25 |  |"
    assert said.endswith("medians.") and again == "To be measured again on a quiet machine:"
    assert note == (
        "1. vae/8/jit reached 100 beside the others and 50 alone, so its solo rate was disturbed"
    )


def test_what_is_there_is_measured(tmp_path, monkeypatch):
    calls = []

    def contest(builds, rounds):
        for name, build in builds.items():
            at, count, form = name.split("/")
            assert build.func is scaling.program and build.args == (at, int(count), form, 2.0)
        calls.append(list(builds))
        return Result(
            {name: [1.0] * rounds for name in builds}, dict.fromkeys(builds, 1.0), {}, {}, {}
        )

    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(scaling.contest, "contest", contest)
    monkeypatch.setattr(scaling, "present", lambda: 3)
    scaling.main(["--rounds", "1"])
    assert calls[0] == ["vae/1/jit", "vae/1/pmap", "vae/2/jit", "vae/2/pmap"]
    kept = json.loads((tmp_path / "scaling.cpu.json").read_text())
    assert kept["devices_used"] == [1, 2] and kept["command"].endswith("--devices 1 2")
    monkeypatch.setattr(scaling, "present", lambda: 8)
    scaling.main(["--rounds", "1", "--devices", "4"])
    assert calls[2][::2] == ["vae/1/jit", "vae/4/jit"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--devices", "3"], "--devices 3 does not divide [512, 1024] images."),
        (["--devices", "0"], "--devices must be"),
        (["--rounds", "0"], "--rounds must be"),
        (["--devices", "4"], "--devices 4: there are 2."),
    ],
)
def test_what_cannot_be_measured_is_one_line(words, said, capsys, monkeypatch):
    monkeypatch.setattr(scaling, "present", lambda: 2)
    with pytest.raises(SystemExit) as end:
        scaling.main(words)
    assert end.value.code == 2 and said in capsys.readouterr().err
