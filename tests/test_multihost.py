import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import jaxvae
from jaxvae import parallel, writers
from small import EXAMPLE, go, small, source

pytestmark = pytest.mark.optimised

HERE = Path(__file__).parent

SCRIPT = """
import json, sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
from jaxvae import parallel
parallel.start_multihost(coordinator_address=sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
parallel.start_multihost()   # a second call does nothing
from small import go, source
assert jax.device_count() == 4
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


@pytest.mark.parametrize("kind", ["resident", "streamed"])
def test_two_processes_train_resume_and_log_as_one(tmp_path, kind):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, address, str(i), str(tmp_path / "two"), kind],
            text=True,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=180) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    found = [json.loads(out.split("RESULT ")[1]) for out, _ in outputs]
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
