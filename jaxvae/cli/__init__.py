"""The command line: `jaxvae train PRESET ...`, `jaxvae sample RUN ...`, `jaxvae data prepare NAME ...`.

    main       words -> one command; exit codes
    options    the options of every command but `train`
    train, use, evaluate, compare, export, hub, zoo, doctor   the commands

Stands on everything, imported by nothing else. Help and usage errors import nothing heavy.
"""

from jaxvae.cli.main import main

__all__ = ["main"]
