"""The conformance suite of the contracts (`types`), for users' own models too: `check_model`
(`conformance`; `step` has what it tries of the training step). A model that passes can be trained by
`fit`, on any number of devices, and resumed from a checkpoint. `assertions` compares trees of arrays,
and names the leaf where they differ.

It knows training; presets, commands and metrics do not know it.
"""

from jaxvae.testing.conformance import check_model

__all__ = ["check_model"]
