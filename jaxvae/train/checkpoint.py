"""Checkpoints of a run, through Orbax: saved asynchronously, whole, checked, and never
half-written. Orbax is imported when a folder is opened, which a new run of one process does after its
first steps.

A checkpoint holds two trees, so that a model can be loaded without its optimiser: "model" (params,
state, ema) and "training" (step, opt_state, rng, the running sums of the log), and a JSON page
"meta" with the shape of both, a fingerprint of their bits, the config, versions and validation
metrics.
"""

import contextlib
import functools
import platform
import shutil
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import host, paths, processes, writers
from jaxvae.errors import UserError
from jaxvae.paths import PathLike
from jaxvae.train import saving, workarounds
from jaxvae.train.step import TrainState
from jaxvae.types import Tree

MODEL_FIELDS = ("params", "state", "ema")


class Damaged(Exception):
    """A checkpoint whose files cannot be read or whose bits are not those that were saved."""


class Restored(NamedTuple):
    """What a checkpoint holds."""

    train_state: TrainState
    sums: Tree  # what was saved beside the state
    meta: dict[str, Any]


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that a result depends on, and the commit of
    this one where it is a checkout."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {"python": platform.python_version()}
    for name in ("jaxvae", *names):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    made_by = host.commit()
    return found if made_by is None else {**found, "commit": made_by}


def describe(tree: Tree) -> dict[str, list]:
    """Returns {path: [shape, dtype]} of every leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): [list(np.shape(x)), str(x.dtype)] for path, x in leaves}


def _words(leaf) -> jax.Array:
    """Returns the bits of an array as a flat array of unsigned integers of at most 32 bits."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if leaf.dtype == jnp.bool_:
        leaf = leaf.astype(jnp.uint8)
    bits = min(32, leaf.dtype.itemsize * 8)  # 64-bit values become pairs of words
    words = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{bits}"))
    return words.reshape(-1).astype(jnp.uint32)


@jax.jit
def _fingerprint(tree: Tree) -> tuple[jax.Array, jax.Array]:
    mixed, finite = [], jnp.array(True)
    for leaf in jax.tree.leaves(tree):
        words = _words(leaf)
        # odd weights: a change of any one word changes the sum
        weights = 2 * jnp.arange(words.size, dtype=jnp.uint32) + 1
        mixed.append(jnp.sum(words * weights, dtype=jnp.uint32))
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            finite &= jnp.isfinite(leaf).all()
    return jnp.stack(mixed), finite


def fingerprint(tree: Tree) -> tuple[list[int], bool]:
    """Returns one number for the bits of each leaf (equal for equal arrays on any devices), and
    whether all are finite."""
    mixed, finite = _fingerprint(tree)
    return [int(x) for x in np.asarray(mixed)], bool(finite)


def parts(train_state: TrainState, sums: Tree) -> dict[str, Tree]:
    """Returns the two trees of a checkpoint, keyed "model" and "training"."""
    fields = train_state._asdict()
    model = {name: fields.pop(name) for name in MODEL_FIELDS}
    return {"model": model, "training": {**fields, "sums": sums}}


def _one_copy(tree: Tree) -> Tree:
    """Returns replicated arrays as the copy on one device, where one process has all devices: of
    several copies Orbax would write a slice each."""
    if jax.process_count() > 1:
        return tree
    return jax.tree.map(lambda x: x.addressable_data(0) if x.is_fully_replicated else x, tree)


class Checkpoints:
    """The checkpoints of one run folder: the last `keep`, and the best one by a validation metric.

    Args:
        folder: made where it is missing.
        keep: how many of the newest to keep, at least 1.
        best: (metric, "max" or "min") of `metrics` as saved; None keeps only the newest. It is
            recorded in each checkpoint, so that `best_step` need not be told.
        read_only: for loading: nothing is made or cleaned up.
    """

    def __init__(
        self,
        folder: PathLike,
        *,
        keep: int = 2,
        best: tuple[str, str] | None = ("elbo", "max"),
        read_only: bool = False,
    ):
        where = paths.path(folder)
        self.folder = where if paths.address(where) else where.absolute()
        self.keep, self.best, self.read_only = keep, best, read_only
        with writers.disk("read", self.folder):
            missing = read_only and not self.folder.is_dir()
        if missing:
            raise UserError(f"{self.folder} does not exist: there is no checkpoint to load.")
        if jax.process_count() > 1:  # the first one makes the folder, and the others wait for it
            self.open()
        elif not read_only:
            with disk(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)

    @functools.cached_property
    def manager(self) -> Any:
        """Orbax's manager of the folder, which removes what an unfinished save has left there; made when
        it is first asked for."""
        ocp = _orbax()
        from orbax.checkpoint.checkpoint_managers import preservation_policy

        best = self.best
        score = None if best is None else lambda metrics: _score(metrics, best)
        policies: list[preservation_policy.PreservationPolicy]
        policies = [preservation_policy.LatestN(self.keep)]
        if score is not None:
            options = {"n": 1, "keep_checkpoints_without_metrics": False}
            policies.append(preservation_policy.BestN(get_metric_fn=score, **options))
        with disk(self.folder):
            manager = ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
                    best_fn=score,  # without it Orbax forgets the metrics at reopening
                    create=not self.read_only,
                    cleanup_tmp_directories=not self.read_only,
                ),
                item_handlers={
                    "model": ocp.StandardCheckpointHandler(),
                    "training": ocp.StandardCheckpointHandler(),
                    "meta": ocp.JsonCheckpointHandler(),
                },
            )
            several = jax.process_count() > 1
            return saving.watched(manager, self._end) if several else manager

    def _end(self, error: Exception) -> None:
        """Ends all processes of the run for what went wrong behind it."""
        try:
            with disk(self.folder):
                raise error
        except Exception as said:
            processes.end(said)

    @property
    def is_open(self) -> bool:
        """Whether Orbax has the folder."""
        return "manager" in self.__dict__

    def open(self) -> None:
        """Gives Orbax the folder, once; otherwise the first that needs it does. Raises `UserError` where
        the disk refuses."""
        _ = self.manager

    def steps(self) -> list[int]:
        """Returns the steps that have a whole checkpoint, ascending."""
        if not self.is_open and not paths.address(self.folder):
            with writers.disk("read", self.folder):
                if not any(self.folder.iterdir()):
                    return []
        return sorted(self.manager.all_steps())

    def save(
        self,
        train_state: TrainState,
        sums: Tree,
        *,
        config: dict,
        metrics: dict[str, float] | None = None,
    ) -> int:
        """Starts to save and returns the step; the arrays may be donated as soon as this returns.

        Raises:
            FloatingPointError: where parameters or optimiser state are not finite (nothing is
                saved).
            UserError: where the disk refuses.
        """
        trees = parts(train_state, sums)
        marks = {name: fingerprint(tree) for name, tree in trees.items()}
        if not all(finite for _, finite in marks.values()):
            raise FloatingPointError("parameters or optimiser state")
        step, trees = int(train_state.step), _one_copy(trees)
        meta = {
            "step": step,
            "config": config,
            "versions": versions(),
            "metrics": metrics,
            "best": self.best,
            "tree": {name: describe(tree) for name, tree in trees.items()},
            "fingerprint": {name: mark for name, (mark, _) in marks.items()},
        }
        ocp = _orbax()
        has_best = metrics is not None and self.best is not None and self.best[0] in metrics
        with disk(self.folder):
            _check_space(self.folder, trees)
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    model=ocp.args.StandardSave(trees["model"]),
                    training=ocp.args.StandardSave(trees["training"]),
                    meta=ocp.args.JsonSave(meta),
                ),
                metrics=metrics if has_best else None,
                force=True,
            )
        return step

    def wait(self) -> None:
        """Waits until what was saved is on the disk."""
        if self.is_open:
            with disk(self.folder):
                self.manager.wait_until_finished()

    def close(self) -> None:
        """Waits and lets go of the folder."""
        if self.is_open:
            with disk(self.folder):
                self.manager.close()

    def delete(self, step: int) -> None:
        """Removes a checkpoint."""
        with disk(self.folder):
            self.manager.delete(step)

    def meta(self, step: int) -> dict[str, Any]:
        """Returns the page of the checkpoint at `step`; raises `Damaged` where that is broken."""
        ocp = _orbax()
        try:
            args = ocp.args.Composite(meta=ocp.args.JsonRestore())
            page = self.manager.restore(step, args=args)["meta"]
            if not {"tree", "fingerprint", "step"} <= set(page):
                raise KeyError("tree, fingerprint or step")
        except Exception as error:
            raise Damaged(
                f"checkpoint {step} in {self.folder} cannot be read ({type(error).__name__})"
            ) from error
        return page

    def best_step(self) -> int | None:
        """Returns the step with the best validation metric so far; None without any."""
        scored = {}
        for step in self.steps():
            with contextlib.suppress(Damaged):
                page = self.meta(step)
                metrics, best = page["metrics"] or {}, page["best"]
                if best is not None and best[0] in metrics:
                    scored[step] = _score(metrics, best)
        return max(scored, key=scored.__getitem__) if scored else None

    def restore_tree(
        self, step: int, name: str, template: Tree, page: dict[str, Any] | None = None
    ) -> Tree:
        """Returns the tree "model" or "training" of the checkpoint at `step`, placed as `template`
        says.

        Args:
            template: the shape, type and, where given, sharding of every leaf (as from
                `jax.eval_shape`).

        Raises:
            UserError: for a checkpoint of another model, naming the first leaves that differ.
            Damaged: where files are missing or bits have changed.
        """
        page = self.meta(step) if page is None else page
        _check_same(page["tree"][name], describe(template), self.folder, step)
        ocp = _orbax()
        arg = ocp.args.StandardRestore(template)
        try:
            tree = self.manager.restore(step, args=ocp.args.Composite(**{name: arg}))[name]
        except Exception as error:
            raise Damaged(
                f"checkpoint {step} in {self.folder} cannot be read ({type(error).__name__})"
            ) from error
        if fingerprint(tree)[0] != page["fingerprint"][name]:
            raise Damaged(f"checkpoint {step} in {self.folder} has changed since it was saved")
        return tree

    def restore(self, step: int, train_state: TrainState, sums: Tree) -> Restored:
        """Returns the checkpoint at `step`, shaped and placed like `train_state` and `sums`."""
        page = self.meta(step)
        trees = {
            name: self.restore_tree(step, name, tree, page)
            for name, tree in parts(train_state, sums).items()
        }
        training = dict(trees["training"])
        sums = training.pop("sums")
        return Restored(TrainState(**trees["model"], **training), sums, page)


def _orbax() -> Any:
    """Returns Orbax, as a run can do with it (`workarounds`)."""
    import orbax.checkpoint

    workarounds.apply()
    return orbax.checkpoint


def _score(metrics: dict[str, float], best: Sequence[str]) -> float:
    """Returns what is to be maximised."""
    name, direction = best
    return metrics[name] if direction == "max" else -metrics[name]


def _check_space(folder: Path, tree: Tree) -> None:
    """Raises `UserError` where `tree` does not fit on a disk: Orbax fails in threads, with many
    tracebacks."""
    if paths.address(folder):
        return
    need = 2**20 + sum(x.dtype.itemsize * x.size for x in jax.tree.leaves(tree))
    free = shutil.disk_usage(folder).free
    if need > free:
        raise _refused(
            folder,
            f"a checkpoint takes up to {need / 2**20:.1f} MiB, and {free / 2**20:.1f} MiB are free",
        )


def _check_same(saved: dict[str, list], wanted: dict[str, list], folder: Path, step: int) -> None:
    paths = dict.fromkeys((*saved, *wanted))
    differing = [path for path in paths if saved.get(path) != wanted.get(path)]
    if not differing:
        return

    def show(entry: list | None) -> str:
        return "absent" if entry is None else f"{tuple(entry[0])} {entry[1]}"

    rows = [
        f"{path} is {show(saved.get(path))} there, {show(wanted.get(path))} here"
        for path in differing[:3]
    ]
    more = f", and {len(differing) - 3} more" if len(differing) > 3 else ""
    raise UserError(
        f"checkpoint {step} in {folder} is of another model: {'; '.join(rows)}{more}. Use the "
        "settings of that run."
    )


@contextlib.contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turns what a disk refuses into one line."""
    with writers.disk("write to", path):
        try:
            yield
        except ValueError as error:
            if (why := workarounds.refusal(error)) is not None:
                raise _refused(path, why) from None
            raise


def _refused(path: Path, why: str) -> UserError:
    if any(words in why for words in ("Permission denied", "PERMISSION_DENIED", "Read-only")):
        return UserError(f"cannot write to {path}: {why}. Choose a folder that you may write to.")
    return UserError(
        f"cannot write to {path}: {why}. Free some space, or choose a folder on another disk."
    )
