"""Every preset but one as small as it gets, and the losses of its first steps on any devices."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from jaxvae import parallel
from jaxvae.presets import PRESETS, stages
from jaxvae.train import init_state, make_train_step
from jaxvae.types import Batch

STEPS, BATCH = 20, 16
MLP = {"hidden": (16,), "latent_dim": 3}
CONV = {"net": "conv", "hidden": (16,), "channels": (4, 4), "latent_dim": 3}
CODES = {"channels": 4, "halvings": 1, "blocks": 1}
TABLE = {"codes": 5, "code_size": 3, **CODES}
ADVERSARY = {"hidden": (16,), "latent_dim": 3, "adversary_hidden": (8,)}
# Adam makes a step of either sign of a gradient that is zero but for rounding (`check_model`), and this
# net has such ones: even on one device, losses differ after 20 steps if parameters differ by 1e-7.
TX = {"vae, infogan": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1e-2))}
# It amplifies rounding within three steps, whatever the optimiser; `check_model` compares those.
LEFT_OUT = {"style_soft_intro_vae"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {  # name -> preset, options
    "vae": ("vae", MLP),
    "vae, conv": ("vae", CONV),
    "vae, infogan": ("vae", {"net": "infogan", "latent_dim": 3}),
    "vae, learned gamma": ("vae", {"likelihood": "gaussian", "gamma": "learned", **MLP}),
    "rho_vae": ("rho_vae", MLP),
    "info_vae": ("info_vae", MLP),
    "wae_gan": ("info_vae", {"divergence": "gan", "alpha": 1.0, **ADVERSARY}),
    "iwae": ("iwae", {"k": 5, **MLP}),
    "iwae, dreg": ("iwae", {"k": 5, "gradient": "dreg", **MLP}),
    "vamp_vae": ("vamp_vae", {"components": 7, **MLP}),
    "ladder_vae": ("ladder_vae", {"latents": (3, 2), "hidden": (16, 8), "depth": 1}),
    "tc_vae": ("tc_vae", MLP),
    "factor_vae": ("factor_vae", ADVERSARY),
    "autoencoder": ("autoencoder", MLP),
    "autoencoder, denoising": ("autoencoder", {"corruption": "gaussian", **MLP}),
    "vae_gan": ("vae_gan", {"disc_channels": (4,), **CONV}),
    "vae_gan, adaptive": ("vae_gan", {"disc_channels": (4,), "disc_adaptive": True, **CONV}),
    "vq_vae": ("vq_vae", TABLE),
    "vq_vae, ema": ("vq_vae", {"quantiser": "ema", **TABLE}),
    "fsq": ("vq_vae", {"quantiser": "fsq", "levels": (3, 3), **CODES}),
    "two_stage_vae, second": ("two_stage_vae", {"second_width": 16, "second_depth": 1}),
    "soft_intro_vae": ("soft_intro_vae", MLP),
    "soft_intro_vae, paper": ("soft_intro_vae", {"convention": "paper", **MLP}),
    "soft_intro_vae, conv": ("soft_intro_vae", CONV),
    "intro_vae": ("intro_vae", {"m": 1.0, **MLP}),
    "translation": ("translation", {"content_dim": 3, "class_dim": 2, "shrink": 16}),
    "gan": ("gan", {"latent_dim": 3, "shrink": 16}),
    "gan, gradient penalty": ("gan", {"loss": "wgan_gp", "latent_dim": 3, "shrink": 16}),
    "flow": ("flow", {"couplings": 2, "hidden": (16,)}),
    "cvae": ("cvae", {"hidden": (16, 8, 8), "latent_dim": 3}),
    "regressor": ("cvae", {"method": "regressor", "hidden": (16, 8, 8)}),
}


class Run:
    """The first steps of a case, from one start and on the same batches each time."""

    def __init__(self, name: str):
        preset, options = CASES[name]
        self.config = PRESETS[preset].options(Path("-"), batch_size=BATCH, **options)
        self.config.check()
        side, rng = 16 if preset == "translation" else 8, np.random.default_rng(0)
        if PRESETS[preset].stages:
            self.system = stages.second_stage(self.config)
            z = rng.standard_normal((STEPS, BATCH, self.config.latent_dim), np.float32)
            self.batches = [Batch(each) for each in z]
        else:
            self.system = PRESETS[preset].build(self.config, (side, side, 1), 10)
            self.batches = [self._batch(i, side, rng) for i in range(STEPS)]
        options = {name: getattr(self.config, name) for name in ("ema_decay", "max_grad_norm")}
        self.tx = TX.get(name, self.system.tx)
        self.step = make_train_step(self.system.model, self.tx, **options)

    def _batch(self, i: int, side: int, rng: np.random.Generator) -> Batch:
        x = rng.integers(0, 256, (BATCH, side, side, 1), np.uint8)
        examples = {"x": x, "label": rng.integers(0, 10, BATCH).astype(np.int32)}
        return jax.device_get(self.system.preprocess(jax.random.key(i), examples))

    def losses(self, form: str, devices: list) -> list[dict[str, float]]:
        """Returns the losses of every step, of each objective by name.

        Args:
            form: "jit" or "pmap".
            devices: of one process, or all of several.
        """
        mesh, here = parallel.make_mesh(devices), jax.process_index()
        first, ema = self.batches[0], self.config.ema_decay is not None
        state = init_state(self.system.model, self.tx, jax.random.key(0), first, ema=ema)
        by_rows = parallel.batch_sharded(mesh)
        if form == "jit":
            state = parallel.put(state, parallel.replicated(mesh))
            step = parallel.jit_step(self.step, mesh)
            batches = [parallel.put(batch, by_rows) for batch in self.batches]
        else:
            local = [device for device in devices if device.process_index == here]
            step = parallel.pmap_step(self.step, devices if len(local) == len(devices) else None)
            rows = parallel.local_rows(by_rows, BATCH)
            mine = [jax.tree.map(lambda x: x[rows], batch) for batch in self.batches]
            batches = [parallel.shard(batch, len(local)) for batch in mine]
        found = []
        for batch in batches:
            state, metrics = step(state, batch)
            found.append({k: float(v) for k, v in metrics.items() if k.endswith("loss")})
        return found


def differences(have: list[dict[str, float]], want: list[dict[str, float]]) -> dict[str, float]:
    """Returns the largest relative difference of each loss over the steps; NaN where one is NaN."""
    assert all(row.keys() == want[0].keys() for row in (*have, *want))

    def values(rows: list[dict[str, float]]) -> np.ndarray:
        return np.asarray([list(map(row.__getitem__, want[0])) for row in rows])

    each = np.abs(values(have) - values(want)) / np.abs(values(want))
    return dict(zip(want[0], each.max(0).tolist(), strict=True))
