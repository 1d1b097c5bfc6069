"""Statistics of real images are kept on the disk, and made anew for any other images."""

import numpy as np
import pytest

from distances import ONE, SIZE, SQUEEZENET, WEIGHTS, source
from jaxvae import data
from jaxvae.metrics import fid

pytestmark = pytest.mark.usefixtures("smaller")


def test_statistics_of_real_images_are_kept(tmp_path, capsys):
    reads = []

    def counted(n=SIZE, seed=0):
        made = source(n, seed=seed)
        return made._replace(read=lambda indices: reads.append(len(indices)) or made.read(indices))

    def again(real=None, protocol=SQUEEZENET, **options):
        reads.clear()
        options = {"weights": WEIGHTS, "cache": tmp_path, "mesh": ONE, **options}
        value = fid.statistics(counted() if real is None else real, protocol, **options)
        return value, bool(reads), len(list(tmp_path.iterdir()))

    first, read, files = again()
    assert read and files == 1
    second, read, files = again(batch_size=13)
    assert not read and files == 1
    np.testing.assert_array_equal(first.cov, second.cov)
    assert not again(protocol=SQUEEZENET._replace(pixels="truncate", samples=50))[
        1
    ]  # of bytes they are the same
    other = {**WEIGHTS, "0.bias": WEIGHTS["0.bias"] + 1}
    for number, change in enumerate(
        (
            {"weights": other},
            {"protocol": SQUEEZENET._replace(reals=80)},
            {"real": counted(seed=1)},
            {"protocol": SQUEEZENET._replace(order="shuffled")},
            {"protocol": SQUEEZENET._replace(features="batch")},
            {"real": counted()._replace(split="valid")},
            {"real": counted()._replace(name="other")},
        ),
        2,
    ):
        _, read, files = again(**change)
        assert read and files == number, change
    for damage in (lambda b: b[:100], lambda b: b"", lambda b: b[:-400] + b"x" * 400):
        for path in tmp_path.iterdir():
            path.write_bytes(damage(path.read_bytes()))
        capsys.readouterr()
        third, read, _ = again()
        assert read and "is damaged" in capsys.readouterr().err
        np.testing.assert_allclose(third.cov, first.cov)
        assert not again()[1]


def test_a_cache_that_cannot_be_written_costs_nothing(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    found = fid.statistics(source(), SQUEEZENET, weights=WEIGHTS, cache=tmp_path / "file")
    assert (
        found.n == SIZE
        and "the statistics of mine are not kept: cannot write" in capsys.readouterr().err
    )


def test_where_statistics_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".cache" / "jaxvae" / "statistics"
    protocol = SQUEEZENET.with_samples(20)
    fid.statistics(source(), protocol, weights=WEIGHTS)  # arrays that a user passes in come and go
    fid.statistics("fake_mnist", protocol, weights=WEIGHTS, cache=False)
    assert not folder.exists()
    fid.statistics("fake_mnist", protocol, weights=WEIGHTS)
    fid.statistics(lambda split: data.load("fake_mnist", split), protocol, weights=WEIGHTS)
    assert [path.name.startswith("fake_mnist-test-squeezenet-") for path in folder.iterdir()] == [
        True
    ]
