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
processes.GRACE, processes.CLOSE, processes.LISTEN = 5.0, 2.0, 0.1
processes.start_multihost(coordinator_address=sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
me, which = str(jax.process_index()), sys.argv[3]
"""
WAITING = """
try:
    with processes.together():
        multihost_utils.sync_global_devices("before")
        if which in (me, "both"):
            time.sleep(1.0 if (which, me) == ("both", "1") else 0.0)  # which is heard of before
            with processes.together():
                raise UserError(f"the disk of {me} is full.")
        multihost_utils.sync_global_devices("never")
except UserError as error:
    multihost_utils.sync_global_devices("both") if which == "both" else None
    print("SAID", error)
    sys.exit(3)
"""
MINUTE = 60  # JAX itself would wait for five


@pytest.mark.parametrize("which", [0, pytest.param(1, marks=pytest.mark.long)])
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


@pytest.mark.long
def test_what_fails_in_all_is_said_by_each():
    found = two_processes.ends(START + WAITING, "both", timeout=MINUTE)
    assert [each.code for each in found] == [3, 3], found
    for i, each in enumerate(found):
        assert f"SAID the disk of {i} is full.\n" in each.out and "jaxvae" not in each.err


THROUGH = """
import threading
work, before = processes.together()(lambda x: x), threading.active_count()
assert work(1) == 1
with processes.together():
    with processes.together():
        multihost_utils.sync_global_devices("inside")
    for i in range(3):       # all fail, and go on
        try:
            with processes.together():
                raise UserError("in both")
        except UserError:
            multihost_utils.sync_global_devices("caught")
    begun = time.monotonic()
    time.sleep(1.0 if me == "0" else 0.0)     # the other one is through before, and waits
assert threading.active_count() == before and time.monotonic() - begun > 0.5
try:
    with processes.together():
        sys.exit(0)          # orderly
except SystemExit:
    pass
print("RESULT", work(2))
"""


@pytest.mark.long
def test_a_block_that_goes_well_leaves_nothing():
    assert two_processes.results(START + THROUGH, "none", timeout=MINUTE) == [2, 2]


AGAIN = """
with processes.together():
    try:
        with processes.together():
            raise UserError("in both")
    except UserError:
        pass
    multihost_utils.sync_global_devices("caught")
    if me == which:
        raise UserError("in one")
    multihost_utils.sync_global_devices("never")
"""


@pytest.mark.long
def test_a_failure_that_all_have_caught_hides_no_later_one():
    failed, other = two_processes.ends(START + AGAIN, "0", timeout=MINUTE)
    assert (failed.code, other.code) == (1, processes.EXIT_FAILED), (failed, other)
    assert "process 0 failed: in one." in other.err.splitlines()[-1]


LATER = """
with processes.together():
    if me == which:
        multihost_utils.sync_global_devices("through")
        time.sleep(1.0)      # the other one is through with what is in the block
        sys.exit("the disk is full.")
    multihost_utils.sync_global_devices("through")
print("OUT OF IT")
"""


@pytest.mark.long
def test_a_process_that_is_through_ends_with_one_that_then_fails():
    failed, other = two_processes.ends(START + LATER, "0", timeout=MINUTE)
    assert (failed.code, other.code) == (1, processes.EXIT_FAILED), (failed, other)
    said = "jaxvae: process 0 failed: SystemExit: the disk is full. This process ends with it."
    assert other.err.splitlines()[-1] == said and "OUT OF IT" not in other.out


CLOSING = """
import threading
with processes.together():
    multihost_utils.sync_global_devices("before")
    if me == which:
        try:
            with processes.together():
                raise UserError("what /data/b\\udcff.png holds is no image.\\nAt all.")
        finally:
            threading.Event().wait()     # for what the other one does no more
    multihost_utils.sync_global_devices("never")
"""


@pytest.mark.long
@pytest.mark.parametrize("which", [0, 1])
def test_a_process_that_fails_ends_where_it_cannot_close(which):
    found = two_processes.ends(START + CLOSING, str(which), timeout=MINUTE)
    assert [each.code for each in found] == [processes.EXIT_FAILED] * 2, found
    lines = [each.err.splitlines()[-1] for each in found]
    assert lines[which].endswith(".png holds is no image.")
    assert "failed: what /data/b?.png holds is no image. This" in lines[1 - which]


BEHIND = """
import threading
with processes.together():
    multihost_utils.sync_global_devices("before")
    if me == which:
        for _ in range(2):       # of two threads one speaks
            threading.Thread(target=processes.end, args=(OSError("no room.\\nNone."),)).start()
    multihost_utils.sync_global_devices("never")
    time.sleep(60)
"""


@pytest.mark.long
def test_a_thread_can_end_all():
    found = two_processes.ends(START + BEHIND, "1", timeout=MINUTE)
    assert [each.code for each in found] == [processes.EXIT_FAILED] * 2, found
    assert [each.err.count("OSError: no room.") for each in found] == [1, 1]
    assert found[1].err.splitlines()[-1] == "jaxvae: OSError: no room."


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
    lines = [line for line in found[1 - which].err.splitlines() if line.startswith("jaxvae: ")]
    assert said in lines[-1], found  # Orbax may add what it cannot do alone
    assert found[which].code in (3, processes.EXIT_FAILED), found
    assert "cannot write " in found[which].out + found[which].err


def test_a_process_alone_just_does_it():
    @processes.together()
    def add(a, b):
        """Adds."""
        return a + b

    assert add(1, b=2) == 3 and add.__doc__ == "Adds."
    with pytest.raises(ValueError, match="as it was"), processes.together():
        raise ValueError("as it was")
    processes.end(ValueError("nobody waits"))  # and goes on


COMMAND = """
import resource, signal, sys
import jax
jax.config.update("jax_platforms", "cpu")
from jaxvae import processes
from jaxvae.cli import main
from jaxvae.errors import UserError
from jaxvae.presets import finish, splits
address, me, which, run = sys.argv[1:]
def fail(*args, **kwargs):
    raise UserError("there is no room.")
if which == "data" and me == "1":
    from jaxvae.cli import train
    train.held_out = fail
if which == "pictures" and me == "0":
    finish.draw = fail
words = ["--steps", "5", "--hidden", "8", "--data", "digits", "--batch-size", "16", "--workdir", run]
several = ["--coordinator", address, "--num-processes", "2", "--process-id", me, "--no-progress"]
sys.exit(main(["train", "vae", *words, *several]))
"""


@pytest.mark.long
@pytest.mark.parametrize(("what", "which"), [("data", 1), ("pictures", 0)])
def test_a_command_that_fails_in_one_process_fails_in_all(tmp_path, what, which):
    found = two_processes.ends(COMMAND, what, str(tmp_path / "run"), timeout=2 * MINUTE)
    assert [each.code for each in found] == [2, 2], found
    said = "jaxvae: process {} failed: there is no room. This process ends with it."
    assert found[which].err.splitlines()[-1] == "jaxvae: there is no room."
    assert found[1 - which].err.splitlines()[-1] == said.format(which)
