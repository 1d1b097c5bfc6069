"""What is here and what is missing: versions, devices, data and weights."""

import jax

import jaxvae
from jaxvae.cli import doctor, main


def test_doctor_names_versions_devices_data_and_what_is_missing(capsys, tmp_path):
    assert main(["doctor", "--data-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for text in (
        "python",
        "jax",
        "devices",
        "cpu",
        "host memory",
        "not found: jaxvae data prepare mnist",
        "weights",
        "pip install 'jaxvae[tf]'",
        str(tmp_path / "weights"),
    ):
        assert text in out, text
    (tmp_path / "squeezenet1_1_features.pth").write_bytes(b"")
    assert main(["doctor", "--data-dir", str(tmp_path)]) == 0
    assert str(tmp_path / "squeezenet1_1_features.pth") in capsys.readouterr().out


def test_rows_are_set_in_columns():
    rows = [("a", "long cell", ""), ("name", "b", "remark")]
    assert doctor.table(rows) == "  a     long cell\n  name  b          remark"


def test_every_requirement_has_its_version_or_how_to_get_it(monkeypatch):
    rows = {name: (version, remark) for name, version, remark in doctor.versions()}
    assert rows["jaxvae"] == (jaxvae.__version__, "") and {"jax", "flax", "optax"} <= set(rows)

    def version(name):
        raise doctor.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    rows = {name: (found, remark) for name, found, remark in doctor.versions()}
    assert rows["jax"] == ("not installed", "needed: pip install jaxvae")
    about = "for data behind gs://: pip install 'jaxvae[gcs]'"
    assert rows["gcsfs"] == ("not installed", about)


def test_devices_say_how_many_and_that_a_driver_does_not_answer(monkeypatch):
    rows = dict(doctor.devices())
    assert rows["devices"].startswith("8 x ") and "jaxvae[cuda13]" in rows["accelerators"]

    def silent():
        raise RuntimeError("no driver\nand more")

    monkeypatch.setattr(jax, "devices", silent)
    assert dict(doctor.devices())["devices"] == "JAX cannot start: no driver"
