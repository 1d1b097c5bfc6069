"""The first twenty steps of every preset but one have the same losses on any number of devices and processes,
jitted and pmapped."""

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from few_steps import CASES, LEFT_OUT, Run, differences

from jaxvae.presets import PRESETS

HERE = Path(__file__).parent
TOLERANCE = 1e-5  # relative
QUICK = (
    "tc_vae",
    "factor_vae",
)  # of which a row needs the whole batch; the others run with the slow
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]

SCRIPT = """
import json, sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
from jaxvae import parallel
parallel.start_multihost(coordinator_address=sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
from few_steps import Run
run = Run(sys.argv[3])
assert jax.device_count() == 4
print("LOSSES", json.dumps([run.losses(form, jax.devices()) for form in ("jit", "pmap")]))
"""


def test_a_loss_that_is_not_a_number_differs():
    one, other = [{"loss": 1.0}, {"loss": 2.0}], [{"loss": 1.0}, {"loss": math.nan}]
    assert differences(one, one) == {"loss": 0.0}
    assert differences([{"loss": 1.5}, {"loss": 2.0}], one) == {"loss": 0.5}
    for have, want in ((one, other), (other, one), (other, other)):
        assert math.isnan(differences(have, want)["loss"])
    with pytest.raises(AssertionError):
        differences([{"loss": 1.0}, {"other_loss": 1.0}], one)


def test_every_preset_is_among_them():
    assert {preset for preset, _ in CASES.values()} == set(PRESETS) - LEFT_OUT


@pytest.mark.parametrize("name", EACH)
def test_the_losses_of_twenty_steps_do_not_depend_on_the_devices(name):
    run, devices = Run(name), jax.devices()
    one = run.losses("jit", devices[:1])
    assert len(one) == 20 and one[0].keys() and one[-1] != one[0]
    counts = (2, 8) if name in QUICK else (1, 2, 4, 8)
    for count in counts:
        for form in ("jit", "pmap"):
            found = differences(run.losses(form, devices[:count]), one)
            assert all(d <= TOLERANCE for d in found.values()), (form, count, found)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_losses_of_twenty_steps_do_not_depend_on_the_processes(name):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, address, str(i), name],
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=500) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    one = Run(name).losses("jit", jax.devices()[:1])
    for out, _ in outputs:
        for form, have in zip(("jit", "pmap"), json.loads(out.split("LOSSES ")[1]), strict=True):
            found = differences(have, one)
            assert all(d <= TOLERANCE for d in found.values()), (form, found)
