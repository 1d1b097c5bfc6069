"""The first twenty steps of every preset but one have the same losses on any number of devices and processes,
jitted and pmapped."""

import math

import jax
import pytest
import two_processes
from few_steps import CASES, LEFT_OUT, Run, differences

from jaxvae.presets import PRESETS

TOLERANCE = 1e-5  # relative
# of these a row needs the whole batch; the others run with the slow
QUICK = ("tc_vae", "factor_vae")
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]

SCRIPT = """
import json, sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
from jaxvae import processes
processes.start_multihost(coordinator_address=sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
from few_steps import Run
run = Run(sys.argv[3])
assert jax.device_count() == 4
print("RESULT", json.dumps([run.losses(form, jax.devices()) for form in ("jit", "pmap")]))
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
    both = two_processes.results(SCRIPT, name, timeout=500)
    one = Run(name).losses("jit", jax.devices()[:1])
    for losses in both:
        for form, have in zip(("jit", "pmap"), losses, strict=True):
            found = differences(have, one)
            assert all(d <= TOLERANCE for d in found.values()), (form, found)
