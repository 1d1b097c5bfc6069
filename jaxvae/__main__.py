"""`python -m jaxvae`: the command line."""

from jaxvae.cli import main

raise SystemExit(main())
