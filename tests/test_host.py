"""The allocator: fewer page faults, the same numbers; nobody's own choice is overruled. And the folder
of compiled programs."""

import errno
import os
import platform
import subprocess
import sys

import jax
import pytest
from jax._src import lru_cache

from jaxvae import host
from jaxvae.errors import UserError

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

FAULTS = """
import resource, sys
import jax, jax.numpy as jnp
from jaxvae import host

done = sys.argv[1] == "keep" and host.keep_freed_memory()
x = jnp.ones((64, 32, 32, 16))
w = jnp.full((3, 3, 16, 16), 0.1)
step = jax.jit(lambda x: jnp.sum(jnp.stack([jnp.cumsum(x + k, 1) for k in range(8)]) ** 2) + jnp.sum(
    jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))))
value = [step(x).block_until_ready() for _ in range(20)][0]   # until the heap has its size
faults = []
for _ in range(5):   # a busy machine makes the heap grow once more now and then: the least of some counts is what stays
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        step(x).block_until_ready()
    faults.append((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10)
print(done, min(faults), float(value).hex())
"""


def run(code: str, *args: str, **env: str) -> list[str]:
    """Returns what `code` prints, in a process of its own whose allocator nobody has set, on the
    CPU unless `env` says else."""
    clean = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("MALLOC_", "JAX_")) and k != "GLIBC_TUNABLES"
    }
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *args],
        env={**clean, "JAX_PLATFORMS": "cpu", **env},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()


@pytest.mark.slow
@glibc
def test_kept_memory_is_not_faulted_in_again_and_changes_no_bit():
    _, before, value = run(FAULTS, "leave")
    if int(before) < 1000:
        pytest.skip("this system's pages are large: there are no faults to avoid")
    done, after, same = run(FAULTS, "keep")
    assert done == "True"
    assert int(after) < int(before) / 20
    assert same == value


@glibc
@pytest.mark.parametrize(
    ("before", "env", "expected"),
    [
        ("", {}, True),
        ("", {"JAX_PLATFORMS": "", "JAX_PLATFORM_NAME": "CPU"}, True),
        ("", {"MALLOC_ARENA_MAX": "4"}, False),
        ("", {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}, False),
        ("", {"JAX_PLATFORMS": "cuda,cpu"}, False),
        ("import jax; jax.config.update('jax_platforms', 'cuda,cpu')", {}, False),
        (
            "import jax; jax.config.update('jax_platforms', 'cpu')",
            {"JAX_PLATFORMS": "cuda,cpu"},
            True,
        ),
        (
            "import sys, types; sys.modules['libtpu'] = types.ModuleType('libtpu')",
            {"JAX_PLATFORMS": ""},
            False,
        ),
        (
            "import importlib.metadata as m; m.entry_points = lambda group: ['xla_cuda13']",
            {"JAX_PLATFORMS": ""},
            False,
        ),
    ],
)
def test_only_where_jax_computes_on_the_cpu_and_nobody_has_chosen(before, env, expected):
    assert run(f"{before}\nfrom jaxvae import host\nprint(host.keep_freed_memory())", **env) == [
        str(expected)
    ]


@pytest.mark.parametrize(
    ("argv", "kept"),
    [
        (["jaxvae", "train", "vae", "--net", "conv"], True),
        (["jaxvae", "train", "two_stage_vae"], True),
        (["jaxvae", "train", "vae", "--net", "mlp"], False),
        (["jaxvae", "evaluate", "no_run", "--metrics", "elbo", "fid"], True),
        (["jaxvae", "evaluate", "no_run", "--metrics", "elbo"], False),
        (["experiments.two_stage", "--table"], True),
        (["experiments.rho_vae", "--table"], True),
    ],
)
def test_what_convolves_calls_it_before_jax_has_started(argv, kept):
    spy = """
import runpy, sys
from jax._src.xla_bridge import backends_are_initialized
from jaxvae import host
import jaxvae.cli.train as commands, jaxvae.cli.evaluate as evaluation

def keep():
    sys.exit("too late" if backends_are_initialized() else "kept")

def go_on(settings):
    sys.exit("not kept")

host.keep_freed_memory, commands.run_train, evaluation.run_evaluate = keep, go_on, go_on
module, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(module, run_name="__main__")
"""
    workdir = ["--workdir", "none"] if "train" in argv else []
    done = subprocess.run(
        [sys.executable, "-c", spy, *argv, *workdir], capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == ("kept" if kept else "not kept")


# ---- compiled programs ---------------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An environment and a JAX in which nobody has chosen a folder."""
    names = ("JAX_COMPILATION_CACHE_DIR", "JAXVAE_CACHE_DIR", "XDG_CACHE_HOME")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def test_compiled_programs_are_kept_in_the_users_cache(fresh, monkeypatch):
    mark = host.compiled_folder().rpartition("/")[2]
    assert mark.startswith(platform.machine())
    assert host.compiled_folder() == f"{fresh}/.cache/jaxvae/compiled/{mark}"
    monkeypatch.setenv("XDG_CACHE_HOME", f"{fresh}/xdg")
    assert host.compiled_folder() == f"{fresh}/xdg/jaxvae/compiled/{mark}"
    monkeypatch.setenv("JAXVAE_CACHE_DIR", "~/ours")
    assert host.compiled_folder() == f"{fresh}/ours/compiled/{mark}"
    assert host.compiled_folder("/mine") == f"/mine/compiled/{mark}"
    assert host.compiled_folder("none") is None
    monkeypatch.setenv("JAXVAE_CACHE_DIR", "none")
    assert host.compiled_folder() is None
    assert host.keep_compiled() is None and jax.config.jax_compilation_cache_dir is None
    assert host.keep_compiled(f"{fresh}/mine") == f"{fresh}/mine/compiled/{mark}"
    assert jax.config.jax_compilation_cache_dir == f"{fresh}/mine/compiled/{mark}"
    assert os.listdir(f"{fresh}/mine/compiled") == [mark]


def test_processors_of_other_abilities_do_not_share_programs(monkeypatch):
    marks = set()
    for text in ("model name: a\nflags : avx\n", "flags : avx avx512f\n", "no such line\n"):
        monkeypatch.setattr(host.Path, "read_text", lambda self, text=text: text)
        marks.add(host.compiled_folder("/x"))
    assert len(marks) == 3


def test_whoever_has_chosen_is_not_overruled(fresh, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", "/theirs")
    assert host.keep_compiled() == "/theirs" == jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/theirs")
    with pytest.raises(UserError, match="unset it, or leave out --compilation-cache"):
        host.keep_compiled("/mine")


def test_a_folder_that_cannot_be_written_is_done_without_unless_it_was_chosen(fresh, monkeypatch):
    (fresh / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh / "file"))
    assert host.keep_compiled() is None and jax.config.jax_compilation_cache_dir is None
    with pytest.raises(UserError, match="cannot be kept in .*: Not a directory. Choose another"):
        host.keep_compiled(str(fresh / "file"))
    monkeypatch.setenv("JAXVAE_CACHE_DIR", str(fresh / "file"))
    with pytest.raises(UserError, match="Not a directory"):
        host.keep_compiled()


IMPORTS = """
import gc, importlib, sys
from jaxvae import host

def importing(name, for_good=False):
    with host.importing(for_good=for_good):
        assert not gc.isenabled()
        before = len(looked)
        importlib.import_module(name)
        assert len(looked) == before
    return gc.isenabled()

looked = []
assert "tyro" not in sys.modules
gc.callbacks.append(lambda phase, info: looked.append(phase))
aside = gc.get_freeze_count()
assert importing("tyro") and gc.get_freeze_count() == aside
kept = [[] for _ in range(1000)]
assert importing("xml.sax", for_good=True) and gc.get_freeze_count() > aside + 1000
try:
    importing("no_such_module")
except ImportError:
    assert gc.isenabled()
gc.disable()
assert not importing("xmlrpc.client")
print("fine")
"""


def test_imports_look_for_no_garbage_and_where_they_are_for_good_nobody_looks_at_them():
    assert run(IMPORTS) == ["fine"]


def test_the_commit_is_that_of_a_checkout_of_this_package(tmp_path, monkeypatch):
    def git(*args):
        options = {"cwd": tmp_path, "check": True, "capture_output": True, "text": True}
        who = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        return subprocess.run(["git", *who, *args], **options).stdout.strip()

    module = tmp_path / "host.py"
    module.write_text("one")
    monkeypatch.setattr(host, "__file__", str(module))
    find = host.commit.__wrapped__  # what is found once stays for the process
    assert find() is None  # no repository
    git("init", "-q")
    assert find() is None  # installed inside somebody else's checkout
    git("add", "host.py")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "--short", "HEAD")
    (tmp_path / "notes.txt").write_text("no code")
    assert find() == head
    module.write_text("two")
    assert find() == f"{head}-dirty"
    monkeypatch.setenv("PATH", "")
    assert find() is None  # no git


def test_a_compiled_program_is_kept_whole_or_not_at_all(fresh, monkeypatch):
    host.keep_compiled(str(fresh / "mine"))
    kept = lru_cache.LRUCache(str(fresh / "programs"), max_size=-1)

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="No space left on device"):
            kept.put("program", b"its bytes")
    assert os.listdir(fresh / "programs") == []
    kept.put("program", b"its bytes")
    kept.put("program", b"later ones")
    assert kept.get("program") == b"its bytes"
    assert os.listdir(fresh / "programs") == ["program-cache"]
    with pytest.raises(ValueError, match="key cannot be empty"):
        kept.put("", b"its bytes")
