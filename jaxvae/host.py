"""The machine: the name of its processor, the C library's memory allocator, set for training on a CPU,
Python's garbage collector while it imports, where compiled programs are kept, and the commit of this
code."""

import contextlib
import ctypes
import functools
import gc
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxvae import paths
from jaxvae.errors import UserError

# <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
NEVER = -1


def processor() -> str:
    """Returns the model name of the processor, such as "AMD EPYC"."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cores() -> str:
    """Returns how many cores this process may use: "2 cores", or "1 of 2 cores"."""
    count = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else count
    return f"{count} cores" if usable == count else f"{usable} of {count} cores"


@functools.cache
def commit() -> str | None:
    """Returns the commit of the checkout that this package is in, with "-dirty" where the package
    differs from it; None where it is in none."""
    folder = Path(__file__).parent

    def git(*args: str) -> subprocess.CompletedProcess:
        options = {"capture_output": True, "text": True, "cwd": folder}
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        return subprocess.run(["git", *args], **options, env=environment, check=False)

    try:
        if git("ls-files", "--error-unmatch", Path(__file__).name).returncode:
            return None  # installed, perhaps into an environment inside some other checkout
        name = git("rev-parse", "--short", "HEAD").stdout.strip()
        return (
            name + "-dirty" * bool(git("diff", "--quiet", "HEAD", "--", "*.py").returncode)
        ) or None
    except OSError:
        return None


def keep_freed_memory() -> bool:
    """Makes malloc keep what is freed for the next step, where JAX computes on the CPU and the C
    library is glibc.

    XLA on CPU takes its buffers from malloc and frees them after each call. By default glibc hands
    large ones back to the system, and the next call touches fresh pages again, which convolutional
    steps pay for in page faults. With this the process keeps its largest size to its end, and all
    threads share one arena: small dense nets, whose steps have no such faults, lose by it.

    Call it before JAX is first used: `import jax` may come before, `jax.devices()`, an array or a
    jitted call not, for the threads that XLA starts keep the allocator they find. Later it has no
    effect, and cannot know.

    JAX computes on the CPU where JAX_PLATFORMS (or `jax.config.jax_platforms`) says so, or where no
    plugin for GPU or TPU is installed. Whoever sets MALLOC_* or GLIBC_TUNABLES in the environment
    has chosen, and nothing is changed. Arithmetic is the same.

    Returns:
        Whether the allocator took the settings.
    """
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if chosen or not sys.platform.startswith("linux") or not _cpu_only():
        return False
    try:
        library = ctypes.CDLL(None)
        mallopt, _ = library.mallopt, library.gnu_get_libc_version
    except (OSError, AttributeError):  # another C library
        return False
    # one arena, as threads' arenas give back what they can; no mapping for a large block alone;
    # no trimming
    return all([mallopt(M_ARENA_MAX, 1), mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, NEVER)])


def _cpu_only() -> bool:
    """Returns whether JAX will compute on the CPU, without starting it."""
    # the config of an imported JAX has read JAX_PLATFORMS, and may have been set since
    config = getattr(sys.modules.get("jax"), "config", None)
    platforms = os.environ.get("JAX_PLATFORMS") if config is None else config.jax_platforms
    platforms = platforms or os.environ.get("JAX_PLATFORM_NAME", "").lower()
    if platforms:
        return set(platforms.split(",")) == {"cpu"}
    installed = any(
        name in sys.modules or importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu")
    )
    return not installed and not importlib.metadata.entry_points(group="jax_plugins")


@contextlib.contextmanager
def importing(*, for_good: bool = False) -> Iterator[None]:
    """Lets Python import without looking for garbage: what modules are made of lives as long as the
    process.

    Args:
        for_good: never look at what there is by then, either: of a process that has done nothing else.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if for_good:
            gc.freeze()
        if collects:
            gc.enable()


# ---- compiled programs -----------------------------------------------------------------------


def compiled_folder(choice: str | None = None) -> str | None:
    """Returns where programs compiled by XLA are kept for the next start; None for nowhere.

    That is `choice`, else JAXVAE_CACHE_DIR, else jaxvae in XDG_CACHE_HOME or in ~/.cache; "none" for
    either of the first two is nowhere. In it every kind of processor has a folder of its own: a program
    for one may stop another with an illegal instruction.
    """
    chosen = choice or os.environ.get("JAXVAE_CACHE_DIR")
    if chosen == "none":
        return None
    if not chosen:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        chosen = os.path.join(home, "jaxvae")
    return os.path.join(os.path.expanduser(chosen), "compiled", _processor_mark())


def keep_compiled(choice: str | None = None) -> str | None:
    """Makes JAX keep what it compiles in `compiled_folder(choice)`, and returns where that is.

    Whoever sets JAX_COMPILATION_CACHE_DIR has chosen, as has a program that told `jax.config`; a folder
    that nobody chose and that cannot be written is done without. Call it before JAX compiles.

    Raises:
        UserError: for a choice beside JAX_COMPILATION_CACHE_DIR, which wins; and for a chosen folder that
            cannot be written.
    """
    import jax

    if choice and os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        raise UserError(
            "JAX_COMPILATION_CACHE_DIR says where compiled programs are kept: unset it, or leave out "
            "--compilation-cache."
        )
    _keep_whole_programs()
    config: Any = jax.config
    known = config.jax_compilation_cache_dir
    if known and not choice:
        return known
    folder = compiled_folder(choice)
    if folder is not None and "://" not in folder:
        try:
            os.makedirs(folder, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(13, os.strerror(13))
        except OSError as error:
            if choice or os.environ.get("JAXVAE_CACHE_DIR"):
                raise UserError(
                    f"compiled programs cannot be kept in {folder}: {error.strerror}. Choose another "
                    "folder with --compilation-cache or JAXVAE_CACHE_DIR, or none."
                ) from None
            return None
    jax.config.update("jax_compilation_cache_dir", folder)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # many are small
    return folder


@functools.cache
def _keep_whole_programs() -> None:
    """Makes JAX put a compiled program into its folder in one move.

    JAX writes into the file itself and never replaces one that is there: what a kill or a full disk
    leaves of a program would be warned of, and compiled again, at every start from then on.
    """
    try:
        from jax._src import lru_cache
    except ImportError:  # nobody promises it
        return
    cache: Any = getattr(lru_cache, "LRUCache", None)
    put, ending = getattr(cache, "put", None), getattr(lru_cache, "_CACHE_SUFFIX", None)
    if put is None or ending is None:
        return

    def put_whole(self: Any, key: str, value: bytes) -> None:
        folder = str(self.path)
        if not key or self.eviction_enabled or "://" in folder:  # an object in a bucket is whole
            put(self, key, value)
        elif not os.path.exists(path := os.path.join(folder, key + ending)):
            paths.replace(path, value, lasting=False)

    cache.put = put_whole


def _processor_mark() -> str:
    """Returns a name for this kind of processor: its architecture and a hash of what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        abilities = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        abilities = processor()
    return f"{platform.machine()}-{hashlib.sha256(abilities.encode()).hexdigest()[:8]}"
