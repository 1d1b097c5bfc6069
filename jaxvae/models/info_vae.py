"""InfoVAE: a VAE whose aggregated posterior is drawn to the prior by a maximum mean discrepancy.

    loss = mean_B [rec + (1 - alpha) KL(q(z|x) || p(z))] + (alpha + lambda - 1) MMD^2(q(z), p(z))

Sources: Zhao, Song & Ermon 2017 (arXiv 1706.02262), Eq. 6; Tolstikhin et al. 2018 (arXiv
1711.01558).
"""

from typing import Any

from jaxvae import objectives
from jaxvae.errors import UserError, check_number, concrete
from jaxvae.models.vae import vae
from jaxvae.types import Array, Model, Net

ROUNDING = 1e-6  # 1 - b and b need not add up to 1 in floats


def info_vae(
    encoder: Net,
    decoder: Net,
    *,
    latent_dim: int,
    alpha: float,
    lambda_: float,
    kernel: str = "gaussian",
    bandwidth: float | None = None,
    **options: Any,
) -> Model:
    """Returns an InfoVAE. Its one objective is `coupled`: MMD^2 compares the whole batch of z with
    as many draws from N(0, I).

    | alpha | lambda | is                                                         |
    | ----- | ------ | ---------------------------------------------------------- |
    | 0     | 1      | the VAE                                                    |
    | 1 - b | b      | the beta-VAE with beta = b                                 |
    | 1     | l      | MMD-VAE, which is WAE-MMD with weight l (no KL at all)     |

    Args:
        encoder, decoder, latent_dim: as in `vae`.
        alpha: at most 1; KL's weight is 1 - alpha.
        lambda_: at least 1 - alpha; MMD's weight is alpha + lambda - 1, in nats per example.
        kernel, bandwidth: of `objectives.mmd`: "gaussian" with h = D^2, or "imq" with h = 2 D.
        options: posterior, likelihood, gamma and the others of `vae`, but beta.

    Returns:
        A `Model` with the metrics of `vae`, and `aggregate`, the weighted MMD^2 of the batch.

    Raises:
        UserError: for weights below zero, an unknown kernel, beta, and as `vae`.
    """
    for name, value in (("alpha", alpha), ("lambda_", lambda_)):
        check_number(name, value)
    if "beta" in options or "aggregate" in options:
        raise UserError(
            "info_vae has no beta and no aggregate: KL's weight is 1 - alpha, MMD's alpha + "
            "lambda_ - 1."
        )
    check_number("alpha", alpha, at_most=1.0)
    weight = alpha + lambda_ - 1.0
    if concrete(weight):
        if weight < -ROUNDING:
            raise UserError(
                f"lambda must be at least 1 - alpha = {1.0 - alpha:g}, not {lambda_:g} (the rest "
                "is MMD's weight)."
            )
        weight = max(weight, 0.0)
    objectives.check_kernel(kernel, bandwidth)

    def aggregate(rng: Array, z: Array) -> Array:
        return weight * objectives.mmd_to_prior(rng, z, kernel=kernel, bandwidth=bandwidth)

    return vae(
        encoder, decoder, latent_dim=latent_dim, beta=1.0 - alpha, aggregate=aggregate, **options
    )
