"""Objects in memory behind s3://, through fsspec as etils finds it: an object appears whole or not at
all, nothing can be appended to, and there are no folders but the beginnings of names."""

import contextlib
from collections.abc import Callable, Iterator

import fsspec
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem


class Shelf(MemoryFileSystem):
    protocol = "s3"
    store: dict = {}  # noqa: RUF012 - as fsspec keeps it
    pseudo_dirs: list = [""]  # noqa: RUF012
    written: list[str] = []  # noqa: RUF012 - names of all objects ever written, in order
    refuses: Callable[[str], bool] = staticmethod(lambda name: False)

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.removeprefix("s3://"))

    def _open(self, path, mode="rb", **options):
        if "a" in mode or "+" in mode:
            raise NotImplementedError("objects cannot be appended to")
        if "w" in mode:
            if self.refuses(path):
                raise PermissionError(f"{path}: the account has been disabled")
            self.written.append(path)
        return super()._open(path, mode=mode, **options)

    def mkdir(self, path, create_parents=True, **options):
        """Does nothing, as in a bucket."""

    def makedirs(self, path, exist_ok=False):
        """Does nothing, as in a bucket."""


@contextlib.contextmanager
def open_shelf() -> Iterator[type[Shelf]]:
    """Yields an empty shelf that is behind s3:// inside the block."""
    made = type("Fresh", (Shelf,), {"store": {}, "pseudo_dirs": [""], "written": []})
    fsspec.register_implementation("s3", made, clobber=True)
    backend.fsspec_backend._get_filesystem.cache_clear()
    try:
        yield made
    finally:
        backend.fsspec_backend._get_filesystem.cache_clear()
