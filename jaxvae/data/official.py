"""The official files of the data sets in a folder: which are missing or damaged, and what to fetch
by hand."""

import hashlib
import os
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from jaxvae.data import idx, prepared
from jaxvae.errors import UserError

CIFAR_MD5 = {  # of the files in cifar-10-binary.tar.gz
    "data_batch_1.bin": ("5dd7e06a14cb22eb9f671a540d1b7c25",),
    "data_batch_2.bin": ("5ea93a67294ea407fff1d09f752e9692",),
    "data_batch_3.bin": ("942cd6a4bcdd0dd3c604fbe906cb4421",),
    "data_batch_4.bin": ("ae636b3ba5c66a11e91e8cb52e771fcb",),
    "data_batch_5.bin": ("53f37980c15c3d472c316c40844f3f0d",),
    # the official one, and one known to differ in 20 images that were kept as JPEG
    "test_batch.bin": ("803d5f7f4d78ea53de84dbe85f74fb6d", "4fd89b928a74095080b56355876466c0"),
}
CELEBA_IMAGES = "img_align_celeba.zip"


class Finding(NamedTuple):
    """What a look at a file found: a problem and a remark, "" for none."""

    problem: str = ""
    remark: str = ""


class FilesError(UserError):
    """Official files that cannot be used, all of them.

    Attributes:
        missing: the names of files that are not there.
        damaged: name -> path, and what is wrong with the file there.
    """

    def __init__(
        self, cls, folder: Path, missing: Collection[str], damaged: Mapping[str, tuple[Path, str]]
    ):
        self.missing, self.damaged = tuple(missing), dict(damaged)
        parts = []
        if missing:
            parts.append(f"missing: {', '.join(missing)}")
        if damaged:
            listed = "; ".join(f"{path}: {problem}" for path, problem in damaged.values())
            parts.append(f"damaged: {listed}")
        hint = by_hand(cls, [*missing, *damaged])
        super().__init__(
            f"{cls.name} cannot be prepared from {folder} ({'; '.join(parts)}). {hint}"
        )


def by_hand(cls, files: Collection[str] | None = None) -> str:
    """Returns which files to fetch by hand (default: all), and what to do with them."""
    urls = ", ".join(
        f"{info.filename} from {url}"
        for url, info in cls.url_infos.items()
        if files is None or info.filename in files
    )
    return f"Fetch by hand: {urls}; then: jaxvae data prepare {cls.name} --from DIR"


def check(cls, folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Returns official file name -> path in `folder` (or in its subfolder of the data set's name),
    all checked, and remarks.

    Args:
        cls: the TFDS builder of the data set.
        folder: holds the official archives, or the files that are in them.

    Raises:
        UserError: for a `folder` that is none.
        FilesError: with every file that is missing or damaged.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder: give --from the one with the official files of {cls.name}."
        )
    paths: dict[str, Path] = {}
    missing, damaged, remarks = [], {}, []
    for info in cls.url_infos.values():
        path = find(cls.name, info.filename, folder)
        if path is None:
            missing.append(info.filename)
            continue
        paths[info.filename] = path
        finding = _look(cls.name, info, path)
        if finding.problem:
            damaged[info.filename] = path, finding.problem
        if finding.remark:
            remarks.append(finding.remark)
    images = paths.get(CELEBA_IMAGES)
    if images is not None and images.is_dir() and not missing and not damaged:
        problem = _images_problem(images, paths["list_eval_partition.txt"])
        if problem:
            damaged[CELEBA_IMAGES] = images, problem
    if missing or damaged:
        raise FilesError(cls, folder, missing, damaged)
    return paths, remarks


def find(name: str, file: str, folder: Path) -> Path | None:
    """Returns where the official file `file` of `name` is, packed or extracted, or None."""
    for base in (folder, folder / name):
        if (base / file).is_file():
            return base / file
        extracted: list[Path] = []
        if name in idx.ADDRESSES:
            extracted = [base / file.removesuffix(".gz")]
        elif file == "cifar-10-binary.tar.gz":
            places = (base / "cifar-10-batches-bin", base)
            extracted = [place for place in places if any(place.glob("*_batch*.bin"))]
        elif file == CELEBA_IMAGES:
            extracted = [base / "img_align_celeba"]
        found = next((path for path in extracted if path.exists()), None)
        if found is not None:
            return found
    return None


def _look(name: str, info: Any, path: Path) -> Finding:
    """Returns what a look at one file, or at the folder it was extracted to, finds."""
    if name in idx.ADDRESSES:  # the content is compared: the files may be packed anew
        file = info.filename.removesuffix(".gz")
        split = next(split for split, files in idx.FILES.items() if file in files)
        try:
            idx.read_file(name, split, file, path)
        except idx.FileError as error:
            return Finding(error.problem)
        return Finding()
    if path.is_file():
        size = path.stat().st_size
        if size != int(info.size):
            return Finding(f"{size:,} bytes instead of {int(info.size):,}")
        if _digest(path, "sha256") != info.checksum:
            return Finding("its checksum is not that of the official file")
        return Finding()
    # CelebA's images are decoded once every other file is right
    return _look_at_cifar(path) if name == "cifar10" else Finding()


def _look_at_cifar(folder: Path) -> Finding:
    missing = [file for file in CIFAR_MD5 if not (folder / file).is_file()]
    if missing:
        return Finding(f"lacks {', '.join(missing)}")
    digests = {file: _digest(folder / file, "md5") for file in CIFAR_MD5}
    wrong = [file for file, known in CIFAR_MD5.items() if digests[file] not in known]
    if wrong:
        return Finding(f"the checksum of {', '.join(wrong)} is not the official one")
    variants = [file for file, known in CIFAR_MD5.items() if digests[file] != known[0]]
    remark = (
        f"{', '.join(variants)} is a known variant of the official file: 20 of its images went "
        "through JPEG."
    )
    return Finding(remark=remark if variants else "")


def _images_problem(folder: Path, partition: Path) -> str:
    """Returns what is wrong with CelebA's extracted images, each of which is decoded, or ""."""
    from jaxvae.data.builders import celeba_names

    def decodes(name: str) -> bool:
        try:
            prepared.decode_image((folder / name).read_bytes())
        except Exception:  # Pillow raises many kinds
            return False
        return True

    names = sorted(celeba_names(partition))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        bad = [name for name, good in zip(names, pool.map(decodes, names), strict=True) if not good]
    lost = [name for name in bad if not (folder / name).is_file()]
    broken = [name for name in bad if (folder / name).is_file()]
    return ", ".join(
        f"{what} {', '.join(files[:3])}{', ...' if len(files) > 3 else ''} "
        f"({len(files):,} of {len(names):,} images)"
        for what, files in (("lacks", lost), ("cannot decode", broken))
        if files
    )


def _digest(path: Path, kind: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
