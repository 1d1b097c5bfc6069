"""Small files in the official formats of the five TFDS data sets, and what must be patched for them
to pass as official."""

import gzip
import hashlib
import importlib
import io
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from tensorflow_datasets.core.download.checksums import UrlInfo

from jaxvae.data import builders, idx, official, prepare, sets
from jaxvae.errors import UserError

COUNTS = {  # multiples of no batch size used in tests
    "mnist": {"train": 37, "test": 11},
    "fashion_mnist": {"train": 37, "test": 11},
    "cifar10": {"train": 35, "test": 7},
    "svhn_cropped": {"train": 21, "test": 6, "extra": 5},
    "celeb_a": {"train": 9, "validation": 4, "test": 5},
}


def idx_file(array):
    """The idx file of an array of bytes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def make(name, folder, seed=0):
    """Writes the official files of `name` into `folder`; returns split -> (x, label or None)."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    shape = {"mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "celeb_a": (218, 178, 3)}.get(
        name, (32, 32, 3)
    )
    arrays = {
        split: (
            rng.integers(0, 256, (n, *shape), np.uint8),
            rng.integers(0, 10, n).astype(np.uint8),
        )
        for split, n in COUNTS[name].items()
    }
    globals()[f"_{name if name in ('celeb_a', 'cifar10', 'svhn_cropped') else 'idx'}"](
        folder, arrays
    )
    return arrays if name != "celeb_a" else {split: (x, None) for split, (x, _) in arrays.items()}


def _idx(folder, arrays):
    for split, (x, label) in arrays.items():
        for file, array in zip(idx.FILES[split], (x[..., 0], label), strict=True):
            (folder / f"{file}.gz").write_bytes(gzip.compress(idx_file(array)))


def cifar_bins(arrays):
    """File name -> records of the .bin files."""
    x, label = (np.concatenate([arrays[split][i] for split in ("train", "test")]) for i in (0, 1))
    records = np.concatenate([label[:, None], x.transpose(0, 3, 1, 2).reshape(len(x), -1)], axis=1)
    cuts = [0, 7, 14, 21, 28, 35, 42]
    names = [file for files in builders.CIFAR_BATCHES.values() for file in files]
    return {name: records[a:b].tobytes() for name, a, b in zip(names, cuts, cuts[1:], strict=False)}


def _cifar10(folder, arrays):
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, content in reversed(
            cifar_bins(arrays).items()
        ):  # the order in the archive must not matter
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _svhn_cropped(folder, arrays):
    for split, (x, label) in arrays.items():
        y = np.where(label == 0, 10, label)[:, None]
        savemat(folder / f"{split}_32x32.mat", {"X": np.moveaxis(x, 0, -1), "y": y})


def celeba_names(arrays):
    """Split -> names of its images: numbered on from one split to the next, as the official ones
    are."""
    at, names = 1, {}
    for split, (x, _) in arrays.items():
        names[split] = [f"{i:06d}.jpg" for i in range(at, at + len(x))]
        at += len(x)
    return names


def _celeb_a(folder, arrays):
    partition, attributes, landmarks, identity = [], [], [], []
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        for number, (split, names) in enumerate(celeba_names(arrays).items()):
            for i, name in enumerate(names):
                file = io.BytesIO()
                arrays[split][0][i] = arrays[split][0][
                    i, :1, :1
                ]  # one colour: JPEG keeps it to a level or two
                Image.fromarray(arrays[split][0][i]).save(file, "JPEG", quality=95)
                archive.writestr(f"img_align_celeba/{name}", file.getvalue())
                partition.append(f"{name} {number}")
                attributes.append(f"{name} " + " ".join(["1", "-1"] * 20))
                landmarks.append(f"{name} " + " ".join(map(str, range(10))))
                identity.append(f"{name} {i + 1}")
    headings = importlib.import_module(builders.OFFICIAL["celeb_a"].__module__)
    n = str(len(partition))
    for file, lines in {
        "list_eval_partition.txt": partition,
        "list_attr_celeba.txt": [n, " ".join(headings.ATTR_HEADINGS), *attributes],
        "list_landmarks_align_celeba.txt": [n, " ".join(headings.LANDMARK_HEADINGS), *landmarks],
        "identity_CelebA.txt": identity,
    }.items():
        (folder / file).write_text("\n".join(lines) + "\n")


def pass_as_official(monkeypatch, name, folder, arrays):
    """Registers the checksums and counts of what `make` wrote, in place of the official ones, and
    hides data that are here."""
    cls = builders.BUILDERS[name]
    infos = {}
    for url, info in cls.url_infos.items():
        content = (folder / info.filename).read_bytes()
        infos[url] = UrlInfo(len(content), hashlib.sha256(content).hexdigest(), info.filename)
    monkeypatch.setattr(cls, "url_infos", infos)
    for split, count in COUNTS[name].items():
        data_set = sets.DATA_SETS[name]
        monkeypatch.setitem(data_set.counts, split, count)
    if name in idx.ADDRESSES:
        sums = {
            file: hashlib.sha256(gzip.decompress((folder / f"{file}.gz").read_bytes())).hexdigest()
            for files in idx.FILES.values()
            for file in files
        }
        monkeypatch.setitem(idx.SHA256, name, sums)
    if name == "cifar10":
        sums = {
            file: (hashlib.md5(content).hexdigest(),)
            for file, content in cifar_bins(arrays).items()
        }
        monkeypatch.setattr(official, "CIFAR_MD5", sums)
    monkeypatch.setitem(prepare.SPACE, name, 1)


def hide_machine(monkeypatch, tmp_path):
    """No data that are here are found."""
    for variable in ("JAXVAE_DATA_DIR", "TFDS_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def quiet(*args, **options):
    """Prepares a data set without a word."""
    return prepare.prepare(*args, say=lambda line: None, **options)


def refused(function, *args, **options):
    """Returns the one line with which a function refuses."""
    with pytest.raises(UserError) as raised:
        function(*args, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)
