"""What fails in one of several processes ends all of them, soon and in a line each."""

import pytest
import two_processes

from jaxvae import processes

START = """
import resource, sys, time
import jax
jax.config.update("jax_platforms", "cpu")
from jax.experimental import multihost_utils
from jaxvae import parallel, processes
from jaxvae.errors import UserError
processes.GRACE, processes.CLOSE, processes.LISTEN = 2.0, 4.0, 0.1
processes.start_multihost(coordinator_address=sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
me, which = str(jax.process_index()), sys.argv[3]
"""
WAITING = """
try:
    with processes.together():
        multihost_utils.sync_global_devices("before")
        if which in (me, "both"):
            with processes.together():
                raise UserError(f"the disk of {me} is full.")
        multihost_utils.sync_global_devices("never")
except UserError as error:
    multihost_utils.sync_global_devices("both") if which == "both" else None
    print("SAID", error)
    sys.exit(3)
"""
MINUTE = 60  # JAX itself would wait for five


@pytest.mark.parametrize("which", [0, 1])
def test_a_process_ends_with_the_one_that_it_waits_for(which):
    found = two_processes.ends(START + WAITING, str(which), timeout=MINUTE)
    failed, other = found[which], found[1 - which]
    assert (failed.code, other.code) == (3, processes.EXIT_FAILED), found
    assert (
        failed.out.endswith(f"SAID the disk of {which} is full.\n") and "jaxvae" not in failed.err
    )
    said = (
        f"jaxvae: process {which} failed: the disk of {which} is full. This process ends with it."
    )
    assert other.err.splitlines()[-1] == said
    assert "Traceback" not in other.err and "SAID" not in other.out


def test_what_fails_in_all_is_said_by_each():
    found = two_processes.ends(START + WAITING, "both", timeout=MINUTE)
    assert [each.code for each in found] == [3, 3], found
    for i, each in enumerate(found):
        assert f"SAID the disk of {i} is full.\n" in each.out and "jaxvae" not in each.err


THROUGH = """
def both(x):
    if x < 0 and which == me:
        raise UserError("caught")
    return x
work = processes.together()(both)
assert work(1) == 1
with processes.together():
    with processes.together():
        multihost_utils.sync_global_devices("inside")
    assert processes._block.depth == 1
assert processes._block is None
time.sleep(0.5 if me == "0" else 0.0)     # the other one is through before
print("RESULT", work(2))
"""


def test_a_block_that_goes_well_leaves_nothing():
    assert two_processes.results(START + THROUGH, "none", timeout=MINUTE) == [2, 2]


SAVING = """
from small import go, source
def fill(step, state):     # from here on this process writes no file of over 100 bytes
    if which == me:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    go(100_000, workdir=sys.argv[4], valid=source(1), eval_every=5, mesh=parallel.make_mesh(), on_eval=fill)
except UserError as error:
    print("SAID", error)
    sys.exit(3)
"""


@pytest.mark.long
@pytest.mark.parametrize("which", [0, 1])
def test_no_process_waits_for_one_that_cannot_write(tmp_path, which):
    """The first one writes log and checkpoints, the second one its part of the checkpoints, behind the
    run."""
    run = tmp_path / "run"
    found = two_processes.ends(START + SAVING, str(which), str(run), timeout=2 * MINUTE)
    said = f"process {which} failed: cannot write "
    assert found[1 - which].code == processes.EXIT_FAILED, found
    assert said in found[1 - which].err.splitlines()[-1]
    assert found[which].code in (3, processes.EXIT_FAILED), found
    assert "cannot write " in found[which].out + found[which].err
    assert "Traceback" not in found[1 - which].err


def test_a_process_alone_just_does_it():
    @processes.together()
    def add(a, b):
        """Adds."""
        return a + b

    assert add(1, b=2) == 3 and add.__doc__ == "Adds."
    with pytest.raises(ValueError, match="as it was"), processes.together():
        raise ValueError("as it was")
    processes.end(ValueError("nobody waits"))  # and goes on
