"""Every test runs on eight simulated CPU devices, with strict dtype promotion, offline.

Most of the suite's time is XLA's, so programs are compiled with as little optimisation as it can do,
in the tests' child processes too; `JAXVAE_TEST_OPTIMISED=1` compiles them as users do. So do the tests
that are marked `optimised`: they compare the bits of different programs of the same mathematics.

What a process has compiled stays in it, gigabytes in the whole suite, so it is dropped between two
tests when there is much of it. A process that has held more than MEMORY_LIMIT fails the run.
"""

import ctypes
import functools
import gc
import os
import threading
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

if gc.isenabled():  # what is imported stays: there is little to collect before the tests
    gc.set_threshold(200_000, 20, 20)

if os.environ.get("JAXVAE_TEST_OPTIMISED", "0") == "0":  # before JAX is loaded, which reads them
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"  # no line of Python beside each operation
    if Version(version("jaxlib")) < Version("0.11"):  # a newer XLA ends at flags it does not know
        flags = os.environ.get("XLA_FLAGS", "").split()
        # kernels in one piece: each of many pieces is a compilation, and workers fill the cores
        quick = ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
        os.environ["XLA_FLAGS"] = " ".join([*flags, *quick])

os.environ["JAXVAE_OFFLINE"] = "1"  # nothing is fetched, in child processes neither
# of the programs that tests start
os.environ.setdefault("JAXVAE_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache"))

import jax

try:
    from jax._src.interpreters import mlir
except ImportError:  # nobody promises it
    mlir = None

import workers
from shelf import open_shelf

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

QUICK = os.environ.get("JAXVAE_TEST_OPTIMISED", "0") == "0"
MEMORY_LIMIT = float(os.environ.get("JAXVAE_TEST_MEMORY", "1.5")) * 2**30  # 0: any amount
MUCH, MORE = 7 * 2**27, 2**27  # compiled programs are dropped at MUCH, then each time MORE has come
PEAKS = pytest.StashKey[dict[str, int]]()
DROP_AT = pytest.StashKey[int]()


def pytest_configure(config):
    config.stash[PEAKS], config.stash[DROP_AT] = {}, MUCH


def pytest_make_parametrize_id(config, val, argname):
    """Names bytes after their parameter: what they hold has no place in the id of a test."""
    return argname if isinstance(val, bytes) else None


# ---- compiled programs ---------------------------------------------------------------------------

CONTEXTS = threading.local()


def one_context_a_thread(make):
    """Returns a `make_ir_context` of JAX that makes one context for each thread, where JAX makes one for
    each program: with most of the tests' programs that takes as long as to lower what is in them."""

    @functools.wraps(make)
    def context():
        if not hasattr(CONTEXTS, "context"):
            CONTEXTS.context = make()
        return CONTEXTS.context

    return context


if hasattr(mlir, "make_ir_context"):
    mlir.make_ir_context = one_context_a_thread(mlir.make_ir_context)


def drop_compiled():
    """Drops all compiled programs, and gives their memory back: freed alone, it stays with malloc."""
    jax.clear_caches()
    CONTEXTS.__dict__.clear()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if item.get_closest_marker("large"):  # it needs room: what came before it goes first
        drop_compiled()
    if item.get_closest_marker("optimised"):
        jax.clear_caches()
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session):
    """What was imported stays: the garbage collector need not walk through it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item):
    jax.config.update("jax_default_matmul_precision", None)  # commands set it for their process
    jax.config.update("jax_disable_most_optimizations", QUICK)
    if workers.held() > item.config.stash[DROP_AT]:
        drop_compiled()
        item.config.stash[DROP_AT] = max(MUCH, workers.held() + MORE)


@pytest.fixture
def swept():
    """Collects what a test leaves half done in Orbax's threads, whose complaints are its own and not
    those of whatever test comes later."""
    yield
    gc.collect()


# ---- workers: as many as fit, none too large -----------------------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    return workers.number(*workers.resources())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Keeps the peak that a worker sends when it ends."""
    if (peak := getattr(node, "workeroutput", {}).get("peak")) is not None:
        node.config.stash[PEAKS][node.gateway.id] = peak


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["peak"] = workers.peak()
        return
    config.stash[PEAKS]["this process"] = workers.peak()
    if workers.too_large(config.stash[PEAKS], MEMORY_LIMIT) and not session.exitstatus:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    peaks = config.stash[PEAKS]
    sizes = (f"{name} {peak / 2**30:.2f} GiB" for name, peak in peaks.items())
    terminalreporter.write_line(f"most memory held: {', '.join(sizes)}")
    if large := workers.too_large(peaks, MEMORY_LIMIT):
        terminalreporter.write_line(
            f"{', '.join(large)} held more than {MEMORY_LIMIT / 2**30:g} GiB. Some test keeps arrays "
            "or makes large ones: use smaller ones, or allow more with JAXVAE_TEST_MEMORY=GIB (0: "
            "any amount).",
            red=True,
        )


# ---- a bucket in memory --------------------------------------------------------------------------


@pytest.fixture
def shelf():
    """An empty bucket in memory, behind s3://."""
    with open_shelf() as opened:
        yield opened
