"""The TPU benchmark: what it reads from a compiled program's text, its table, and, where libtpu is
installed, its smallest program."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from benchmarks import tpu
from jaxvae import parallel
from jaxvae.errors import UserError
from jaxvae.presets import PRESETS

ROOT = Path(__file__).parents[1]
MISSING = importlib.util.find_spec("libtpu") is None
TEXT = """HloModule jit_step, entry_computation_layout={(f32[8]{0})->f32[]}
%body (p: f32[8]) -> f32[8] {
  %all-reduce.1 = (f32[400]{0:T(512)S(1)}, bf16[10,400]{1,0:T(8,128)}, f32[]{:T(128)}) all-reduce(%a, %b, %c), channel_id=1
  ROOT %all-gather-start.2 = (f32[8]{0}, f32[4,8]{1,0}) all-gather-start(%d), channel_id=2, frontend_attributes={chain_id="0"}
  %all-gather.3 = f32[4,8]{1,0} all-gather(%e), channel_id=2, frontend_attributes={chain_id="0"}
}
  %all-reduce.8 = f32[2]{0} all-reduce(%f), channel_id=1
  %while.4 = (s32[], f32[8]{0}) while(%t), condition=%c, body=%body
  %custom-call.5 = f32[8]{0} custom-call(%x), custom_call_target="xla_ffi_python_cpu_callback"
  %add.6 = f64[3]{0} add(%all-reduce.7, %y)
"""


def test_a_programs_text_is_read():
    found = tpu.look_over(TEXT)
    assert found["collectives"] == {
        "all-reduce": {"count": 2, "arrays": 4, "bytes": 4 * 400 + 2 * 4000 + 4 + 8},
        "all-gather": {"count": 1, "arrays": 1, "bytes": 4 * 32},
    }
    assert (found["loops"], found["sorts"]) == (1, 0)
    assert found["custom_calls"] == {"xla_ffi_python_cpu_callback": 1}
    assert (found["float64"], found["host_calls"]) == (1, 1)


def test_every_preset_has_every_program_on_every_topology():
    names = {name for case in tpu.cases() for name in tpu.names(case)}
    assert set(PRESETS) <= names and {"two_stage_vae-first", "two_stage_vae-second"} <= names
    wanted = tpu.wanted("tpu")
    small = len(names) - len(tpu.LARGE)
    large = [key for key in wanted if key.split("/")[0] in tpu.LARGE]
    assert len(wanted) == len(set(wanted)) == small * len(tpu.PROGRAMS) * 9 + len(large)
    assert len(large) == 2 * 3 * 3 + 4 * 2 * 3  # four and eight images cannot be cut over 16 chips
    first = small * len(tpu.PROGRAMS) + len(tpu.LARGE)
    assert all(key.endswith("/v5e:2x2/float32") for key in wanted[:first])


def test_a_batch_that_the_chips_do_not_divide_is_larger():
    for chips, size in ((1, 100), (4, 100), (16, 112)):
        [(name, config, *_)] = tpu.systems("cvae", "float32", chips)
        assert (name, config.batch_size) == ("cvae", size)


def test_the_table_says_what_is_there_refused_and_missing():
    entry = {
        "seconds": 2.0,
        "flops": 3e9,
        "bytes_accessed": 5e6,
        "memory": {"arguments": 2**20, "temporaries": 2**21},
        "hbm_share": 0.25,
        "collectives": {"all-reduce": {"count": 1, "arrays": 2, "bytes": 2**20}},
        "float64": 0,
        "host_calls": 0,
    }
    entries = {
        "vae/step/v5e:2x2/float32": entry,
        "gan/evaluate/v5e:2x2/float32": {"absent": True},
        "gan/step/v5e:2x2/float32": {"seconds": 1.0, "error": "ValueError: no such thing"},
        "style-256/step/v5e:2x2/default": entry,
    }
    text = tpu.tables("tpu", entries)
    count = sum(key.endswith("/v5e:2x2/float32") for key in tpu.wanted("tpu"))
    row = f"| v5e:2x2 | float32 | {count - 1} | 1 | 1 | {count - 3} | 2 | 25.0 | 0 | 0 |"
    assert row in text
    assert "| vae | step | 2.0 | 3 | 5 | 1.0 | 2.0 | 25.00 | 1 all-reduce of 1 MiB |" in text
    assert "| style-256 | step, v5e:2x2, default | 2.0 | 3 | 5 | 1.0 | 2.0 | 25.00 |" in text
    assert "- `gan/step/v5e:2x2/float32`: ValueError: no such thing" in text


@pytest.mark.parametrize("platform", tpu.PLATFORMS)
def test_what_the_committed_results_hold_is_what_should_be_there(platform):
    """No float64, no call of the host, nothing refused; a step's gradients are one all-reduce."""
    entries = tpu.read(platform)["entries"]
    compiled = {key: found for key, found in entries.items() if "absent" not in found}
    assert compiled and set(entries) <= set(tpu.wanted(platform))
    for key, found in compiled.items():
        assert "error" not in found, key
        assert (found["float64"], found["host_calls"]) == (0, 0), key
        assert found["hbm_share"] < 1, key
    step = compiled[f"vae/step/{tpu.PLATFORMS[platform].topologies[0]}/float32"]
    assert step["collectives"]["all-reduce"]["count"] == 1


def test_the_memory_of_the_largest_images_on_the_page_is_that_of_the_results():
    entries, page = tpu.read("tpu")["entries"], ROOT / "docs" / "soft_intro_vae.md"

    def share(case):
        return f"{100 * entries[f'{case}/step/v5e:2x2/default']['hbm_share']:.0f} %"

    text = " ".join(page.read_text().split())
    assert f"takes {share('style-256')} of the chip's memory, {share('style-256-remat')}" in text
    assert f"one image a chip {share('style-1024')} and {share('style-1024-remat')}" in text


def test_resumes_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(tpu.measure, "RESULTS", tmp_path)
    results = tpu.read("tpu")
    last, first = tpu.wanted("tpu")[-1], tpu.wanted("tpu")[0]
    for key in (last, first):
        tpu.keep("tpu", results, key, {"absent": True})
    assert list(tpu.read("tpu")["entries"]) == [first, last]


def test_a_case_without_nets_in_a_precision_is_said_and_the_next_goes_on(
    monkeypatch, tmp_path, capsys
):
    """A flow has none in bfloat16."""
    monkeypatch.setattr(tpu.measure, "RESULTS", tmp_path)
    monkeypatch.setattr(tpu, "compiler", lambda platform: {})
    monkeypatch.setattr(tpu, "mesh_of", lambda *_: parallel.make_mesh(jax.devices()[:1]))
    monkeypatch.setattr(tpu, "entry", lambda *_: {"seconds": 1.0})
    keys = [
        f"{name}/{program}/v5e:2x2/bfloat16"
        for name in ("flow", "vae")
        for program in ("step", "sample")
    ]
    monkeypatch.setattr(tpu, "wanted", lambda _: keys)
    tpu.compile_missing("tpu", "*", math.inf)
    entries = tpu.read("tpu")["entries"]
    assert list(entries) == keys
    flow, vae = (entries[f"{name}/step/v5e:2x2/bfloat16"] for name in ("flow", "vae"))
    assert flow["absent"] and "not bfloat16" in flow["why"]
    assert vae["seconds"] == 1.0
    said = capsys.readouterr().out
    assert f"flow/step/v5e:2x2/bfloat16: {flow['why']}" in said


@pytest.mark.skipif(not MISSING, reason="libtpu is there")
def test_without_the_compiler_it_says_what_to_install():
    with pytest.raises(UserError, match="is in the package libtpu, .*`make tpu`"):
        tpu.compiler("tpu")


@pytest.mark.skipif(MISSING, reason="libtpu is not installed: make tpu")
def test_the_smallest_program_compiles(tmp_path):
    code = f"""
import sys
from pathlib import Path
from benchmarks import tpu
tpu.measure.RESULTS = Path({str(tmp_path)!r})
tpu.main(["--only", "vae/evaluate/v5e:2x2/default"])
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    (found,) = json.loads((tmp_path / "tpu.json").read_text())["entries"].values()
    assert found["collectives"]["all-reduce"]["count"] == 1
    assert found["flops"] > 1e6 and found["float64"] == found["host_calls"] == 0
