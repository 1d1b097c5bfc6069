import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
import two_processes

import jaxvae
from jaxvae import parallel, processes, writers
from jaxvae.cli import main
from jaxvae.errors import UserError
from jaxvae.train.checkpoint import Checkpoints
from small import EXAMPLE, go, small, source

HERE = Path(__file__).parent

SCRIPT = """
import json, sys, time
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
from jaxvae import parallel, processes
processes.start_multihost(coordinator_address=sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
processes.start_multihost()   # a second call does nothing
from small import go, source
from jaxvae.train import folder
assert jax.device_count() == 4
check = folder.check
def late(*args):     # the other process goes ahead
    time.sleep(1.0 if jax.process_index() == 0 else 0.0)
    check(*args)
folder.check = late
whole, rows = source(), []
def read(indices):
    rows.append(len(indices))
    return whole.read(indices)
data = whole._replace(arrays=None, read=read) if sys.argv[4] == "streamed" else whole
for steps in (12, 20):       # the second goes on from the checkpoint of the first
    result = go(steps, data=data, workdir=sys.argv[3], valid=source(1), eval_every=6, mesh=parallel.make_mesh())
assert rows.count(8) >= 20 or data is whole   # of batches of 16, each process reads its own half
print("RESULT", json.dumps(result.metrics))
"""


@pytest.mark.long
@pytest.mark.parametrize("kind", [pytest.param("resident", marks=pytest.mark.slow), "streamed"])
def test_two_processes_train_resume_and_log_as_one(tmp_path, kind):
    found = two_processes.results(SCRIPT, str(tmp_path / "two"), kind, timeout=180)
    one = go(
        20,
        workdir=tmp_path / "one",
        valid=source(1),
        eval_every=6,
        mesh=parallel.make_mesh(jax.devices()[:4]),
    )
    for metrics in found:
        for name in ("elbo", "rec", "kl"):
            assert metrics["valid"][name] == pytest.approx(one.metrics["valid"][name], rel=1e-5)
    steps = [
        (line["split"], line["step"]) for line in writers.read(tmp_path / "two" / "metrics.jsonl")
    ]
    assert steps == [
        ("train", 5),
        ("valid", 6),
        ("train", 10),
        ("train", 12),
        ("valid", 12),
        ("train", 15),
        ("valid", 18),
        ("train", 20),
        ("valid", 20),
    ]
    assert jaxvae.load(tmp_path / "two", model=small(), example=EXAMPLE).params.keys() == {
        "encoder",
        "decoder",
    }


FETCH = """
import pathlib, sys, time
import jax
jax.config.update("jax_platforms", "cpu")
from jaxvae import processes
from jaxvae.errors import UserError
processes.start_multihost(coordinator_address=sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
place, made = pathlib.Path(sys.argv[3]), []
def make():
    if not place.exists():
        time.sleep(1.5 if jax.process_index() == 0 else 0.0)   # past the first time of asking
        place.write_text("whole")
        made.append(jax.process_index())
def fail():
    raise UserError("no network")
processes.first_alone(make)
print("MADE", made, place.read_text())
try:
    processes.first_alone(fail)
except UserError as error:
    print("SAID", error)
"""


def test_the_first_process_fetches_alone_and_the_others_hear_of_its_failure(tmp_path):
    command = [sys.executable, "-c", FETCH, two_processes.free_address()]
    processes = [
        subprocess.Popen(
            [*command, str(i), str(tmp_path / "data")],
            text=True,
            env={**os.environ, "PYTHONPATH": str(HERE.parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0].splitlines() == ["MADE [0] whole", "SAID no network"]
    said = "SAID the first process of this run has failed, and says why."
    assert outputs[1][0].splitlines() == ["MADE [] whole", said]


COMMAND = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
from jaxvae.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_notice_to_one_process_stops_all_at_one_step_and_one_process_goes_on(tmp_path, capfd):
    """By the commands alone: two processes of two devices train, SIGTERM to the second saves and exits
    with 75 in both, and this process with its eight devices ends the run."""
    run = tmp_path / "run"
    train = ["train", "vae", "--hidden", "8", "--latent-dim", "2", "--batch-size", "16"]
    train += ["--log-every", "5", "--workdir", str(run)]
    cache = tmp_path / "cache"
    train += ["--compilation-cache", str(cache)]
    several = [
        "--steps",
        "1000000",
        "--coordinator",
        two_processes.free_address(),
        "--num-processes",
        "2",
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COMMAND, *train, *several, "--process-id", str(i)],
            text=True,
            env={**os.environ, "PYTHONPATH": str(HERE.parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]
    log, end = run / "metrics.jsonl", time.monotonic() + 180
    while not log.exists() and time.monotonic() < end and processes[1].poll() is None:
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=180) for process in processes]
    assert [process.returncode for process in processes] == [75, 75], outputs
    assert "4 cpu device(s) of 2 processes" in outputs[0][0]
    assert "cpu device(s)" not in outputs[1][0]
    (step,) = Checkpoints(run / "checkpoints", read_only=True).steps()
    assert step >= writers.read(log)[-1]["step"] > 0

    capfd.readouterr()
    assert main([*train[:-2], "--steps", str(step + 5)]) == 0
    assert "8 cpu device(s), " in capfd.readouterr().out
    steps = [line["step"] for line in writers.read(log) if line["split"] == "train"]
    assert steps == [*range(5, step + 6, 5)] or steps == [*range(5, step + 5, 5), step + 5]
    assert (run / "samples.png").exists()
    assert list(cache.glob("compiled/*/*")) and "cache" not in (run / "config.json").read_text()
    assert "coordinator" not in (run / "config.json").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-processes", "2"], "belong together: give all three"),
        (["--coordinator", "a:1", "--num-processes", "2"], "belong together: give all three"),
        (
            ["--coordinator", "a", "--num-processes", "2", "--process-id", "0"],
            "--coordinator is HOST:PORT of process 0, not 'a'",
        ),
        (
            ["--coordinator", "a:1", "--num-processes", "2", "--process-id", "2"],
            "--process-id 2: of 2 processes it runs from 0 to 1",
        ),
        (
            ["--coordinator", "a:1", "--num-processes", "2", "--process-id", "1"],
            "could not be joined (jax.distributed.initialize() must be called before",
        ),
    ],
)
def test_processes_that_are_described_in_part_are_refused(tmp_path, capfd, words, message):
    jax.devices()
    assert main(["train", "vae", "--workdir", str(tmp_path / "run"), *words]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line and not (tmp_path / "run").exists()


def test_a_cluster_is_looked_for_where_there_may_be_one(monkeypatch):
    started = []
    monkeypatch.setattr(processes, "start_multihost", lambda **options: started.append(options))
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    processes.join(num_processes=1)
    assert not started
    processes.join()
    processes.join("host:1", 2, 0)
    assert [set(options.values()) for options in started] == [{None}, {"host:1", 2, 0}]
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # a job of one task keeps all of its GPUs
    for tasks, count in ((None, 2), ("1", 2), ("4", 3)):
        if tasks is not None:
            monkeypatch.setenv("SLURM_STEP_NUM_TASKS", tasks)
        processes.join()
        assert len(started) == count


def test_no_cluster_is_no_mistake_and_one_that_does_not_answer_is_said(monkeypatch):
    def fails(error):
        def start(**options):
            raise error

        return start

    monkeypatch.setattr(
        processes, "start_multihost", fails(ValueError("coordinator_address should be defined."))
    )
    processes.join()
    with pytest.raises(UserError, match="could not be joined"):
        processes.join("host:1", 2, 0)
    monkeypatch.setattr(processes, "start_multihost", fails(RuntimeError("DEADLINE_EXCEEDED\nx")))
    with pytest.raises(UserError, match=r"\(DEADLINE_EXCEEDED\).*--num-processes 1"):
        processes.join()


def test_one_process_agrees_with_itself_and_its_arrays_are_its_own():
    tree = {"x": jax.numpy.ones(3)}
    assert processes.agreed(3) == 3 and parallel.local(tree) is tree
