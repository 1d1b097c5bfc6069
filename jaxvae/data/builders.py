"""The five official builders of TensorFlow Datasets, prepared without TensorFlow.

Each is a subclass of the official one, with its name, version, features, addresses and checksums,
so that what it writes is found and read under the official name. Only how the official files are
opened differs: the official code needs TensorFlow's file system and image codecs for that.

    builder = BUILDERS["mnist"](data_dir=..., file_format="array_record")
    builder.files = {"train-images-idx3-ubyte.gz": path, ...}   # or leave it: then they are downloaded

This module imports tensorflow_datasets; the rest of `jaxvae.data` does so only where it must.
"""

import gzip
import io
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import registered

from jaxvae.data import idx
from jaxvae.errors import UserError, one_line

CIFAR_RECORD = 1 + 3 * 32 * 32
CIFAR_BATCHES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
CIFAR_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
Example = tuple[int | str, dict[str, Any]]


def png(x: np.ndarray) -> io.BytesIO:
    """Returns an image [H, W, 1 or 3] uint8 as a PNG file in memory, which TFDS stores as it is."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x).save(file, "PNG")
    file.seek(0)
    return file


def _paths(builder, dl) -> dict[str, Path]:
    """Returns official file name -> local path: those given, or downloaded and checked by TFDS."""
    if builder.files is not None:
        return builder.files
    wanted = {info.filename: url for url, info in builder.url_infos.items()}
    return {name: Path(path) for name, path in dl.download(wanted).items()}


OFFICIAL = {
    name: tfds.builder_cls(name)
    for name in ("mnist", "fashion_mnist", "cifar10", "svhn_cropped", "celeb_a")
}

with registered.skip_registration():  # the names are taken by the official classes

    class MNIST(OFFICIAL["mnist"]):
        """MNIST from its four idx files."""

        name = "mnist"
        files: dict[str, Path] | None = None
        url_infos = OFFICIAL[name].url_infos

        def _split_generators(self, dl):
            paths = _paths(self, dl)
            return {split: self._generate_examples(split, paths) for split in idx.FILES}

        def _generate_examples(self, split: str, paths: dict[str, Path]) -> Iterator[Example]:
            x, label = (
                idx.read_file(self.name, split, file, paths[f"{file}.gz"])
                for file in idx.FILES[split]
            )
            for i in range(len(x)):
                yield i, {"image": png(x[i, ..., None]), "label": int(label[i])}

    class FashionMNIST(OFFICIAL["fashion_mnist"]):
        """Fashion-MNIST from its four idx files."""

        name = "fashion_mnist"
        files: dict[str, Path] | None = None
        url_infos = OFFICIAL[name].url_infos
        _split_generators, _generate_examples = MNIST._split_generators, MNIST._generate_examples

    class Cifar10(OFFICIAL["cifar10"]):
        """CIFAR-10 from cifar-10-binary.tar.gz, or from the .bin files in it."""

        name = "cifar10"
        files: dict[str, Path] | None = None
        url_infos = OFFICIAL[name].url_infos

        def _split_generators(self, dl):
            paths = _paths(self, dl)
            cast(Any, self.info.features)["label"].names = list(CIFAR_CLASSES)
            return {split: self._generate_examples(split, paths) for split in CIFAR_BATCHES}

        def _generate_examples(self, split: str, paths: dict[str, Path]) -> Iterator[Example]:
            index = 0
            for name, content in cifar_batches(paths, CIFAR_BATCHES[split]):
                x, label = cifar_records(name, content)
                for image, number in zip(x, label, strict=True):
                    key = f"{split}_{index:05d}"
                    yield index, {"id": key, "image": png(image), "label": int(number)}
                    index += 1

    class SvhnCropped(OFFICIAL["svhn_cropped"]):
        """The cropped Street View House Numbers from their three .mat files."""

        name = "svhn_cropped"
        files: dict[str, Path] | None = None
        pkg_dir_path, url_infos = OFFICIAL[name].pkg_dir_path, OFFICIAL[name].url_infos

        def _split_generators(self, dl):
            paths = _paths(self, dl)
            splits = ("train", "test", "extra")
            return {split: self._generate_examples(split, paths) for split in splits}

        def _generate_examples(self, split: str, paths: dict[str, Path]) -> Iterator[Example]:
            x, label = svhn_arrays(paths[f"{split}_32x32.mat"])
            for i in range(len(x)):
                yield i, {"id": f"{split}_{i:06d}", "image": png(x[i]), "label": int(label[i])}

    class CelebA(OFFICIAL["celeb_a"]):
        """CelebA from img_align_celeba.zip (or the folder in it) and its four lists; the JPEG files
        stay as they are."""

        name = "celeb_a"
        files: dict[str, Path] | None = None
        pkg_dir_path, url_infos = OFFICIAL[name].pkg_dir_path, OFFICIAL[name].url_infos

        def _split_generators(self, dl):
            paths = _paths(self, dl)
            return {
                split: self._generate_examples(i, paths)
                for i, split in enumerate(("train", "validation", "test"))
            }

        def _generate_examples(self, partition: int, paths: dict[str, Path]) -> Iterator[Example]:
            chosen = sorted(
                name
                for name, (number,) in _table(paths["list_eval_partition.txt"], 0)[1].items()
                if number == partition
            )
            landmark_names, landmarks = _table(paths["list_landmarks_align_celeba.txt"], 2)
            attribute_names, attributes = _table(paths["list_attr_celeba.txt"], 2)
            _, identity = _table(paths["identity_CelebA.txt"], 0)
            read = celeba_reader(paths["img_align_celeba.zip"])
            for name in chosen:
                try:
                    rows = landmarks[name], attributes[name], identity[name]
                except KeyError:
                    raise UserError(
                        f"{name} is in list_eval_partition.txt, but not in every other list of "
                        "CelebA: fetch the lists again."
                    ) from None
                yield (
                    name,
                    {
                        "image": io.BytesIO(read(name)),
                        "landmarks": dict(zip(landmark_names, rows[0], strict=True)),
                        "attributes": {
                            key: value > 0
                            for key, value in zip(attribute_names, rows[1], strict=True)
                        },
                        "identity": {"Identity_No": rows[2][0]},
                    },
                )


BUILDERS = {cls.name: cls for cls in (MNIST, FashionMNIST, Cifar10, SvhnCropped, CelebA)}


# ---- the official formats ------------------------------------------------------------------


def cifar_batches(paths: dict[str, Path], names: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Yields the .bin files called `names`, in this order, from the folder or the archive in
    `paths`."""
    folder = paths["cifar-10-binary.tar.gz"]
    if os.path.isdir(folder):
        for name in names:
            yield name, (Path(folder) / name).read_bytes()
        return
    found = {}
    try:
        with gzip.open(folder) as unpacked:
            with tarfile.open(fileobj=unpacked, mode="r:") as archive:
                for member in archive:
                    name = os.path.basename(member.name)
                    file = archive.extractfile(member) if name in names else None
                    if file is not None:  # else a folder
                        found[name] = file.read()
            while unpacked.read(2**20):  # the checksum is behind the end of the archive
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{folder} is damaged ({one_line(str(error))}): fetch it again.") from None
    for name in names:
        if name not in found:
            raise UserError(
                f"{folder} lacks {name}: it is not the official archive; fetch it again."
            )
        yield name, found[name]


def cifar_records(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Returns x [n, 32, 32, 3] and label [n] of a .bin file: one label byte, then red, green and
    blue planes."""
    if not content or len(content) % CIFAR_RECORD:
        raise UserError(
            f"{name} holds {len(content)} bytes, no multiple of {CIFAR_RECORD}: it is truncated; "
            "fetch it again."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, CIFAR_RECORD)
    label = records[:, 0]
    if label.max() > 9:
        raise UserError(
            f"{name} holds the label {label.max()}, but CIFAR-10 has 0 to 9: fetch it again."
        )
    return np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), label


def svhn_arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns x [n, 32, 32, 3] and label [n] of a .mat file, in which the digit 0 is written 10."""
    from scipy.io import loadmat

    try:
        content = loadmat(path)
        x, label = np.moveaxis(content["X"], -1, 0), content["y"].reshape(-1)
    except Exception as error:  # whatever a damaged MATLAB file makes scipy raise
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}): fetch it again."
        ) from None
    if len(x) != len(label) or label.min() < 1 or label.max() > 10:
        raise UserError(
            f"{path} holds {len(x)} images and {len(label)} labels from {label.min()} to "
            f"{label.max()}, which must be 1 to 10: fetch it again."
        )
    return np.ascontiguousarray(x), label % 10


def celeba_reader(path: Path) -> Callable[[str], bytes]:
    """Returns file name -> JPEG bytes, from img_align_celeba.zip or the folder that was in it."""

    def missing(name: str) -> UserError:
        return UserError(
            f"{path} lacks {name}, which list_eval_partition.txt names: fetch it again."
        )

    if os.path.isdir(path):

        def read(name: str) -> bytes:
            try:
                return (Path(path) / name).read_bytes()
            except OSError:
                raise missing(name) from None

        return read
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is damaged ({error}): fetch it again.") from None
    members = {os.path.basename(name): name for name in archive.namelist() if name.endswith(".jpg")}

    def read_member(name: str) -> bytes:
        if name not in members:
            raise missing(name)
        return archive.read(members[name])

    return read_member


def celeba_names(partition: Path) -> list[str]:
    """Returns the names of all images of CelebA, from list_eval_partition.txt."""
    return list(_table(partition, 0)[1])


def _table(path: Path, header: int) -> tuple[list[str], dict[str, list[int]]]:
    """Returns the column names and {file name: numbers} of one of CelebA's lists, which has
    `header` lines before them."""
    try:
        lines = Path(path).read_text().splitlines()
        columns = lines[1].split() if header == 2 else []
        rows = (line.split() for line in lines[header:] if line.strip())
        return columns, {name: [int(value) for value in values] for name, *values in rows}
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{path} is damaged ({error}): fetch it again.") from None
