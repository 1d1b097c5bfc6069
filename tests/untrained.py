"""A model at its start in its released form: for tests of what becomes of one, which need no training."""

import json

import jax
import jax.numpy as jnp

from jaxvae import safetensors
from jaxvae.presets import load, record, released, vae
from jaxvae.presets.config import VAE
from jaxvae.types import Batch

SHAPE = (4, 4, 1)


def files() -> tuple[dict[str, bytes], dict]:
    """Returns the files of a released VAE, by name, and its parameters."""
    config = VAE(workdir=load.Path(), hidden=(3,), latent_dim=2)
    init = vae.build(config, SHAPE, None).model.init
    params, state = init(jax.random.key(0), Batch(jnp.zeros((2, *SHAPE))))
    page = {"format": 1, "config": record.as_dict(config, SHAPE, None), "step": 7}
    row = {"metric": "elbo", "value": -9.5, "error": 0.1, "n": 8, "protocol": "nats, one draw"}
    found = {
        released.MODEL: safetensors.dump(
            load.flatten({"params": params, "state": state}), {"format": "jaxvae"}
        ),
        released.EVALUATION: json.dumps(
            {"step": 7, "run": "/home/me/run", "metrics": [row]}
        ).encode(),
        released.CARD: b'---\nlicense: "mit"\n---\n# a model',
        released.CONFIG: json.dumps(page).encode(),
    }
    return found, params
