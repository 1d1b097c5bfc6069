"""Commands of the command line in the tests' own process, and what they refuse."""

from jaxvae.cli.main import main

TINY = ["--hidden", "16", "--latent-dim", "2", "--batch-size", "32", "--log-every", "10"]
TINY += ["--no-progress"]


def refused(capsys, *argv, silent: bool = True) -> str:
    """Returns the one line that `jaxvae argv` ends with; if silent, nothing was printed before."""
    capsys.readouterr()
    assert main([str(a) for a in argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" or not silent
    assert err.startswith("jaxvae: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


def refused_training(capsys, folder, *argv) -> str:
    """Returns the one line with which `jaxvae train` refuses options; it makes no folder."""
    words = ("--data", "digits", "--workdir", folder / "run", "--no-progress")
    err = refused(capsys, "train", *argv, *words)
    assert not (folder / "run").exists()
    return err
