"""Where data sets are looked for: what is given, then the environment, then folders of the home."""

from pathlib import Path

import pytest

from jaxvae.data import places


@pytest.fixture(autouse=True)
def home(alone, tmp_path):
    return tmp_path / "home"


def test_a_folder_that_is_given_is_the_only_one(monkeypatch):
    monkeypatch.setenv("JAXVAE_DATA_DIR", "/from/environment")
    assert places.roots("/given") == ["/given"]
    assert places.target(Path("/given")) == "/given"


def test_the_environment_comes_before_the_home_and_no_place_twice(monkeypatch, home):
    usual = [f"{home}/.cache/jaxvae", f"{home}/tensorflow_datasets"]
    assert places.roots() == usual
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://bucket/data")
    monkeypatch.setenv("JAXVAE_DATA_DIR", "~/data")
    assert places.roots() == [f"{home}/data", "gs://bucket/data", *usual]
    monkeypatch.setenv("JAXVAE_DATA_DIR", "~/tensorflow_datasets")
    assert places.roots() == [usual[1], "gs://bucket/data", usual[0]]


def test_what_is_prepared_goes_where_tfds_looks(monkeypatch, home):
    assert places.target() == f"{home}/tensorflow_datasets"
    monkeypatch.setenv("JAXVAE_DATA_DIR", "/ours")
    assert places.target() == "/ours"
    monkeypatch.setenv("TFDS_DATA_DIR", "/theirs")
    assert places.target() == "/theirs"


@pytest.mark.parametrize(
    ("root", "address"),
    [
        (Path("gs://bucket/data"), "gs://bucket/data"),  # whose slashes Path has merged
        ("gs://bucket/data", "gs://bucket/data"),
        ("s3:/bucket", "s3://bucket"),
    ],
)
def test_an_address_keeps_its_slashes(root, address):
    assert places.expand(root) == address
    assert places.remote(places.expand(root))


def test_a_drive_and_a_folder_are_no_addresses(home):
    for root in ("C:/data", "/data", "~/data"):
        assert not places.remote(places.expand(root))
    assert places.cache() == home / ".cache/jaxvae"
