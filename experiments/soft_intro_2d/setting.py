"""What Table 2 of the Soft-IntroVAE paper trained (appendix 9.2.1 and the released code): nets,
phases, hyper-parameters.

Encoder and decoder have four hidden layers of 256 with ReLU (the paper says three) and torch's
initialisation. Adam 2e-4, divided by 10 at steps 10,000 and 15,000; batch 512, all of it new at
every step; 30,000 steps, of which the first 2,000 are a plain VAE with the same weights. The code
of the VAE and IntroVAE rows was never released: they are trained in the same way.
"""

from typing import Any, NamedTuple

import optax

from jaxvae import models, nets
from jaxvae.train import Phase
from jaxvae.types import Model

STEPS, NUM_VAE, BATCH_SIZE = 30_000, 2_000, 512
LATENT_DIM, S = 2, 0.5
DATA = ("8gaussians", "spiral", "checkerboard", "rings")
METHODS = ("vae", "intro_vae", "soft_intro_vae")

# Table 5
HYPER: dict[str, dict[str, dict[str, float]]] = {
    "8gaussians": {
        "vae": {"beta_rec": 0.8, "beta_kl": 0.05},
        "intro_vae": {"beta_rec": 0.3, "beta_kl": 0.5, "beta_neg": 1.0, "m": 1.0},
        "soft_intro_vae": {"beta_rec": 0.2, "beta_kl": 0.3, "beta_neg": 0.9},
    },
    "spiral": {
        "vae": {"beta_rec": 1.0, "beta_kl": 0.05},
        "intro_vae": {"beta_rec": 0.2, "beta_kl": 0.5, "beta_neg": 0.5, "m": 2.0},
        "soft_intro_vae": {"beta_rec": 0.2, "beta_kl": 0.5, "beta_neg": 1.0},
    },
    "checkerboard": {
        "vae": {"beta_rec": 0.8, "beta_kl": 0.1},
        "intro_vae": {"beta_rec": 0.4, "beta_kl": 0.2, "beta_neg": 0.2, "m": 8.0},
        "soft_intro_vae": {"beta_rec": 0.2, "beta_kl": 0.1, "beta_neg": 0.2},
    },
    "rings": {
        "vae": {"beta_rec": 0.8, "beta_kl": 0.05},
        "intro_vae": {"beta_rec": 0.8, "beta_kl": 0.5, "beta_neg": 0.5, "m": 5.0},
        "soft_intro_vae": {"beta_rec": 0.2, "beta_kl": 0.2, "beta_neg": 1.0},
    },
}

MARGINS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0)  # of Figure 3
SAME = {
    "beta_rec": 0.3,
    "beta_kl": 0.5,
    "beta_neg": 1.0,
}  # of Figure 3: IntroVAE's best on 8 Gaussians
COLLAPSE = {"beta_rec": 0.5, "beta_kl": 1.0}  # of Figure 21


class Run(NamedTuple):
    """What a cell trains."""

    data: str
    method: str
    hyper: dict[str, float]


TABLE_2 = {
    f"{data}/{method}": Run(data, method, HYPER[data][method])
    for data in DATA
    for method in METHODS
}
# the IntroVAE rows with the losses of IntroVAE's own code instead of appendix 9.1.1; see the README
READINGS = {
    f"{data}/intro_vae_released": Run(data, "intro_vae_released", HYPER[data]["intro_vae"])
    for data in DATA
}
FIGURE_3 = {
    **{
        f"8gaussians/m_{m:g}/intro_vae": Run("8gaussians", "intro_vae", {**SAME, "m": m})
        for m in MARGINS
    },
    "8gaussians/no_m/soft_intro_vae": Run("8gaussians", "soft_intro_vae", SAME),
}
FIGURE_21 = {
    "8gaussians/collapse/vae": Run("8gaussians", "vae", COLLAPSE),
    "8gaussians/collapse/soft_intro_vae": Run(
        "8gaussians", "soft_intro_vae", {**COLLAPSE, "beta_neg": 5.0}
    ),
}


def search(method: str) -> list[dict[str, float]]:
    """Returns the settings of the grid search of appendix 9.2.1: 81, 1260 or 210 of them.

    The paper gives the numbers of runs and the ranges; the values inside are ours, and hold every
    entry of Table 5.
    """
    if method == "vae":
        values = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
        return [{"beta_rec": rec, "beta_kl": kl} for rec in values for kl in values]
    settings = [
        {"beta_rec": rec, "beta_kl": kl, "beta_neg": round(factor * kl, 6)}
        for rec in (0.05, 0.2, 0.3, 0.4, 0.8, 1.0)
        for kl in (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0)
        for factor in (1, 2, 3, 4, 5)
    ]
    if method == "soft_intro_vae":
        return settings
    return [{**setting, "m": m} for setting in settings for m in (1.0, 2.0, 3.0, 5.0, 8.0, 10.0)]


def build(method: str, hidden: int = 256, **hyper: Any) -> Model:
    """Returns the model of one method: encoder 199,172 and decoder 198,658 parameters (the released
    one owns a scalar more)."""
    pair = nets.mlp((hidden,) * 4, 2 * LATENT_DIM), nets.mlp((hidden,) * 4, 2)
    if method == "vae":
        return models.plain_vae(*pair, latent_dim=LATENT_DIM, **hyper)
    if method.startswith("intro_vae"):
        convention = "released" if method == "intro_vae_released" else "paper"
        return models.intro_vae(*pair, latent_dim=LATENT_DIM, convention=convention, **hyper)
    return models.soft_intro_vae(*pair, latent_dim=LATENT_DIM, s=S, convention="released", **hyper)


def phases(
    method: str, steps: int = STEPS, num_vae: int = NUM_VAE, hidden: int = 256, **hyper: Any
) -> list[Phase]:
    """Returns the run of one method: `num_vae` steps of a plain VAE, then the rest."""
    model = build(method, hidden, **hyper)
    if method == "vae":
        return [Phase(model, steps)]
    plain = build("vae", hidden, beta_rec=hyper["beta_rec"], beta_kl=hyper["beta_kl"])
    return [Phase(plain, num_vae), Phase(model, steps - num_vae)]


def optimiser() -> optax.GradientTransformation:
    """Returns Adam at 2e-4, a tenth of it from step 10,000, a hundredth from step 15,000."""
    return optax.adam(optax.piecewise_constant_schedule(2e-4, {10_000: 0.1, 15_000: 0.1}))
