"""The preset `vamp_vae`."""

import dataclasses
from typing import ClassVar

from jaxvae.presets.config import VAE, Preset, System, Width


@dataclasses.dataclass(frozen=True)
class VampVAE(VAE):
    """Train a VAE whose prior mixes its posteriors at learned inputs (Tomczak & Welling 2018)."""

    components: Width = 500
    """Pseudo-inputs, as many as the prior has components."""

    pays_kl: ClassVar[bool] = True

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        super().check()
        self.check_counts("components")
        self.check_default("the KL to a mixture has no parts that could be free", "free_bits")
        self.check_default("pseudo-inputs have no labels", "conditional")


def build(config: VampVAE, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the VAE with a VampPrior of these options: images are in [0, 1], points are not."""
    from jaxvae import models
    from jaxvae.presets import optimise, parts
    from jaxvae.train.step import groups

    options = parts.elbo_options(config)
    del options["free_bits"]
    options["domain"] = "unit" if len(shape) == 3 else "real"
    pair = parts.nets_of(config, shape, num_classes)
    model = models.vamp(*pair, components=config.components, **options)
    system = parts.system(config, model, num_classes)
    tx = system.tx if isinstance(system.tx, dict) else dict.fromkeys(groups(model), system.tx)
    undecayed = optimise.transformation(config, config.learning_rate, decay=False)
    return system._replace(tx={**tx, "pseudo_inputs": undecayed})


PRESET = Preset(VampVAE, build, equation="rec + beta (log q(z|x) - log 1/K sum_k q(z|u_k))")
