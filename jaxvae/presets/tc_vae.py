"""The preset `tc_vae`."""

import dataclasses
from typing import Any, ClassVar, Literal

from jaxvae.errors import UserError
from jaxvae.presets.config import VAE, Preset, System


@dataclasses.dataclass(frozen=True)
class TCVAE(VAE):
    """Train a beta-TCVAE, which weighs the total correlation of z by itself (Chen et al. 2018)."""

    beta: float = 6.0
    """Weight of the total correlation."""
    alpha: float = 1.0
    """Weight of the mutual information of data and z."""
    marginal: float = 1.0
    """Weight of the divergences of each z_j from its prior."""
    estimator: Literal["mws", "mss"] = "mws"
    """Of q(z), by the batch: weighted, or stratified."""
    convention: Literal["paper", "released"] = "paper"
    """Of mss: the paper's weights, or those that its code fills in."""

    pays_kl: ClassVar[bool] = True

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        super().check()
        self.check_numbers("alpha", "marginal", least=0.0)
        self.check_default("the parts of the KL are estimated, not free", "free_bits")
        if self.convention == "released" and self.estimator != "mss":
            raise UserError(
                "--convention released is of --estimator mss: give that, or leave it out."
            )


def build(config: TCVAE, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the beta-TCVAE of these options; its loss learns how many examples there are when it
    is trained."""
    from jaxvae import models
    from jaxvae.presets import parts
    from jaxvae.train import Phase

    options: dict[str, Any] = parts.elbo_options(config)
    del options["free_bits"]
    for name in ("alpha", "marginal", "estimator", "convention"):
        options[name] = getattr(config, name)
    pair = parts.nets_of(config, shape, num_classes)

    def phases(steps: int, size: int) -> list[Any]:
        return [Phase(models.tc_vae(*pair, data_size=size, **options), steps)]

    model = models.tc_vae(*pair, data_size=max(2, config.batch_size), **options)
    return parts.system(config, model, num_classes)._replace(phases=phases)


PRESET = Preset(
    TCVAE,
    build,
    equation="rec + alpha MI(x; z) + beta TC(z) + marginal sum_j KL(q(z_j) || N(0, 1))",
)
