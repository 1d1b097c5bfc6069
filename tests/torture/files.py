"""Damaged files: checkpoints, data, weights and configs are refused in one line, or read as they
were."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import official
import optax
import pytest
from hypothesis import strategies as st
from PIL import Image

import hostile
from jaxvae import data, safetensors
from jaxvae.data import builders, idx
from jaxvae.errors import UserError
from jaxvae.metrics import weights
from jaxvae.presets import load as loading
from jaxvae.presets import record
from jaxvae.presets.config import VAE
from jaxvae.train import checkpoint
from jaxvae.train.checkpoint import Checkpoints, Damaged
from jaxvae.train.loop import empty_sums
from jaxvae.train.step import make_train_step
from small import EXAMPLE, go, small
from torture.kinds import Kind, Try, drawn, lost, one_line

ON_ONE_FILE = 20  # tries


def leaves(tree: Any) -> list[bytes]:
    """Returns the bytes of every array."""
    is_key = jax.dtypes.prng_key

    def plain(x):
        return jax.random.key_data(x) if jax.numpy.issubdtype(x.dtype, is_key) else x

    return [np.asarray(plain(x)).tobytes() for x in jax.tree.leaves(tree)]


# ---- checkpoints -------------------------------------------------------------------------------

MODEL, STEPS = small(200), 10  # arrays large enough for a file of their own
OPTIONS: dict[str, Any] = {"model": MODEL, "save_every": 5}


def harm(rng: np.random.Generator, path: Path) -> str:
    """Damages a file; returns what was done to it."""
    content = bytearray(path.read_bytes())
    what = str(rng.choice(["flip", "flip", "cut", "empty", "lose"]))
    if what == "flip" and content:
        at = int(rng.integers(len(content)))
        content[at] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(content))
        return f"byte {at} of {len(content)} flipped"
    if what == "lose":
        path.unlink()
        return "lost"
    size = int(rng.integers(len(content) + 1)) if what == "cut" else 0
    path.write_bytes(bytes(content[:size]))
    return f"cut to {size} of {len(content)} bytes"


def checkpoints(rng: np.random.Generator, place: Path) -> Iterator[Try]:
    """Yields the try of each file of a checkpoint, damaged, which is read again; then that of a run
    which goes on from some of them."""
    result = go(STEPS, workdir=place / "run", **OPTIONS)
    state = result.train_state
    step = make_train_step(MODEL, optax.adam(1e-2))
    sums = empty_sums(step, state, EXAMPLE)

    def read() -> list[bytes]:
        found = Checkpoints(place / "run/checkpoints", read_only=True).restore(STEPS, state, sums)
        return leaves((found.train_state, found.sums))

    want = read()
    folder = place / "run" / "checkpoints" / str(STEPS)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for number in rng.permutation(len(files)):
        path = files[number]
        intact, name = path.read_bytes(), path.relative_to(folder)
        how = harm(rng, path)
        try:
            same = read() == want
            yield Try("read as it was") if same else lost(f"{name} {how}: silently wrong")
        except (UserError, Damaged):
            yield Try("refused")
        except Exception as error:
            yield lost(f"{name} {how}: {one_line(error)}")
        path.write_bytes(intact)
    end = leaves(go(STEPS + 4, **OPTIONS).train_state.params)
    for number in rng.permutation(len(files))[:3]:
        copy = place / "copy"
        shutil.copytree(place / "run", copy)
        name = files[number].relative_to(place / "run")
        how = harm(rng, copy / name)
        try:
            have = go(STEPS + 4, workdir=copy, **OPTIONS).train_state.params
            yield Try("went on") if leaves(have) == end else lost(f"{name} {how}: another end")
        except UserError:
            yield Try("refused")
        except Exception as error:
            yield lost(f"{name} {how}, then a run: {one_line(error)}")
        shutil.rmtree(copy)


# ---- data --------------------------------------------------------------------------------------


def read_again(
    rng: np.random.Generator, path: Path, read: Callable[[], list[bytes]], *, exact: bool = True
) -> Iterator[Try]:
    """Yields the tries of one file with mishaps, read by `read`.

    Args:
        exact: whether the format has checksums: what is read is then what was written.
    """
    intact, want = path.read_bytes(), read()

    def one(content: bytes) -> Try:
        path.write_bytes(content)
        have = read()
        if exact and have != want:
            return lost(f"{path.name}: silently wrong")
        return Try("read as it was" if have == want else "read")

    number = int(rng.integers(2**32))
    yield from drawn(hostile.damaged(intact), ON_ONE_FILE, number, one)
    path.write_bytes(intact)


def source_bytes(source: data.Source) -> list[bytes]:
    """Returns the bytes of all that a source holds."""
    return [x.tobytes() for x in source.read(np.arange(source.size)).values()]


def npz_files(rng: np.random.Generator, place: Path) -> Iterator[Try]:
    """Yields tries of data in .npz files."""
    path, x = place / "a.npz", rng.integers(0, 256, (6, 4, 4, 1), np.uint8)
    (np.savez if rng.random() < 0.5 else np.savez_compressed)(path, x=x, label=np.arange(6) % 3)
    yield from read_again(rng, path, lambda: source_bytes(data.npz(path, x="x", label="label")))


def image_files(rng: np.random.Generator, place: Path) -> Iterator[Try]:
    """Yields tries of a folder of images, of which one is damaged: PNGs have checksums, which Pillow
    compares in the parts that it needs; JPEGs have none."""
    kind = str(rng.choice(["png", "jpg", "bmp", "gif"]))
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(place / f"{i}.{kind}")

    def read() -> list[bytes]:
        return source_bytes(data.folder(place, by_class=False))

    yield from read_again(rng, place / f"1.{kind}", read, exact=False)


def idx_files(rng: np.random.Generator, place: Path) -> Iterator[Try]:
    """Yields tries of MNIST's files, of which small ones take the place."""
    official.make("mnist", place / "raw", seed=int(rng.integers(100)))
    with pytest.MonkeyPatch.context() as patch:
        official.hide_machine(patch, place)
        for split, count in official.COUNTS["mnist"].items():
            patch.setitem(idx.COUNTS, split, count)
        names = [file for files in idx.FILES.values() for file in files]
        sums = {
            name: hashlib.sha256(
                gzip.decompress((place / f"raw/{name}.gz").read_bytes())
            ).hexdigest()
            for name in names
        }
        patch.setitem(idx.SHA256, "mnist", sums)
        path = place / "raw" / f"{idx.FILES['train'][int(rng.integers(2))]}.gz"
        if rng.random() < 0.5:
            path.write_bytes(gzip.decompress(path.read_bytes()))

        def read() -> list[bytes]:
            return source_bytes(data.load("mnist", "train", data_dir=place / "raw"))

        yield from read_again(rng, path, read)


def array_records(rng: np.random.Generator, place: Path) -> Iterator[Try]:
    """Yields tries of what TFDS has prepared: the shard, or one of the pages beside it."""
    arrays = official.make("mnist", place / "raw")
    with pytest.MonkeyPatch.context() as patch:
        official.hide_machine(patch, place)
        official.pass_as_official(patch, "mnist", place / "raw", arrays)
        copy = official.quiet("mnist", data_dir=place / "tfds", source=place / "raw")
        path = next(Path(copy.folder).glob("mnist-train*"))

        def read() -> list[bytes]:
            shutil.rmtree(place / "tfds" / ".jaxvae", ignore_errors=True)
            return source_bytes(data.load("mnist", "train", data_dir=place / "tfds"))

        yield from read_again(rng, path, read)


def tar_files(rng: np.random.Generator, place: Path) -> Iterator[Try]:
    """Yields tries of an archive of CIFAR-10, read without its checksum."""
    path, names = place / "cifar-10-binary.tar.gz", ("a.bin", "b.bin")
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member, content = tarfile.TarInfo(f"x/{name}"), rng.bytes(2 * 3073)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

    def read() -> list[bytes]:
        return [content for _, content in builders.cifar_batches({path.name: path}, names)]

    yield from read_again(rng, path, read)


def weight_files(rng: np.random.Generator, place: Path) -> Iterator[Try]:
    """Yields tries of weights in torch's two layouts, .npz and .safetensors: with damage anywhere,
    or in the pickle alone, whose checksum then holds."""
    arrays = {
        "a.weight": rng.standard_normal((3, 4)).astype(np.float32),
        "a.bias": rng.standard_normal(5).astype(np.float32),
    }
    kind = str(rng.choice([*hostile.WRITERS, "npz", "safetensors", "pickle"]))
    path = place / f"w.{kind if kind in ('npz', 'safetensors') else 'pth'}"
    content = hostile.dump(hostile.as_calls(arrays, (None,)))
    if kind == "npz":
        np.savez(path, **arrays)
    elif kind == "safetensors":
        path.write_bytes(safetensors.dump(arrays, {}))
    elif kind != "pickle":
        hostile.WRITERS[kind](path, arrays)
    if kind != "pickle":
        content = path.read_bytes()

    def one(broken: bytes) -> Try:
        if kind == "pickle":
            layout = hostile.WRITERS["zip" if len(broken) % 2 else "legacy"]
            layout(path, arrays, broken)
            broken = path.read_bytes()
        found = hostile.outcome(weights.read, path, broken)
        if found is not None and kind in ("zip", "npz"):  # where every part has a checksum
            hostile.same(found, arrays)
        return Try("refused" if found is None else "read")

    yield from drawn(hostile.damaged(content), ON_ONE_FILE, int(rng.integers(2**32)), one)


# ---- configs -------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)


def configs(rng: np.random.Generator, place: Path) -> Iterator[Try]:
    """Yields tries of a run's config.json: damaged anywhere, or with other values in it."""
    config = record.as_dict(VAE(place), (8, 8, 1), 10)
    page = {"config": config, "versions": checkpoint.versions()}
    path, content = place / "config.json", json.dumps(page).encode()
    changed = st.tuples(st.sampled_from([*config, "unheard"]), JSON).map(
        lambda pair: json.dumps({**page, "config": {**config, pair[0]: pair[1]}}).encode()
    )

    def one(content: bytes) -> Try:
        path.write_bytes(content)
        loading.open_run(place)
        return Try("read")

    number = int(rng.integers(2**32))
    yield from drawn(hostile.damaged(content) | changed, ON_ONE_FILE, number, one)


KINDS = (
    Kind("checkpoint", checkpoints),
    Kind("npz", npz_files),
    Kind("images", image_files),
    Kind("idx", idx_files),
    Kind("array_record", array_records),
    Kind("tar", tar_files),
    Kind("weights", weight_files),
    Kind("config", configs),
)
