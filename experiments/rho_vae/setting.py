"""What the figures of the rho-VAE paper trained: four nets with a Normal and with an AR(1)
posterior, on two data sets.

| method       | posterior | quirks of the released code                                                      |
| ------------ | --------- | -------------------------------------------------------------------------------- |
| normal       | Normal    | yes: the paper's baseline curves (only the info net has a quirk there)           |
| normal-paper | Normal    | no (for the vanilla and cnn nets the same as "normal", and left out)             |
| ar1-paper    | AR(1), as the mathematics has it | no                                                        |
| ar1-readme   | AR(1), as the paper prints the recursion | no                                                |
| ar1-released | AR(1), as the code computes it | yes: the paper's rho curves                                 |

The net "info_uniform" is "info" as PyTorch before 1.2 started it, BatchNorm's scales drawn from
U(0, 1): its first epoch alone, for the published curves' starts.

Without the quirks "beta" has a beta and "info" an MMD; the paper gives neither's weight, and the
released code has neither term. Adam 1e-3, batch 128, 15 passes over the 60,000 training images.
"""

import jax
import jax.numpy as jnp
import optax

from experiments.vae.setting import BATCH_SIZE, LATENT_DIM
from jaxvae import distributions, models, nets
from jaxvae.data.preprocess import Preprocess, make_preprocess
from jaxvae.models.rho_vae import net_posterior, released_posterior
from jaxvae.types import Batch, Model, Terms

DATA = ("mnist", "fashion_mnist")
POSTERIORS = {"normal-paper": "normal", "ar1-paper": "ar1", "ar1-readme": "ar1-readme"}
BETA = 4.0  # ours: the paper names no value
ALPHA, LAMBDA = 0.0, 1000.0  # ours: the paper names no values
LEARNING_RATE = 1e-3
UNIFORM = "info_uniform"  # "info" with BatchNorm's scales from U(0, 1), its first epoch


def methods(net: str) -> list[str]:
    """Returns the methods of a net's cells."""
    if net == UNIFORM:
        return ["normal", "ar1-released"]
    return [
        "normal",
        *(["normal-paper"] if net in ("beta", "info") else []),
        "ar1-paper",
        "ar1-readme",
        "ar1-released",
    ]


def build(net: str, method: str, *, shrink: int = 1) -> Model:
    """Returns the model of one cell."""
    correlated, released = method.startswith("ar1"), method in ("normal", "ar1-released")
    uniform, net = net == UNIFORM, "info" if net == UNIFORM else net
    pair = nets.rho_nets(
        net, latent_dim=LATENT_DIM, correlated=correlated, shrink=shrink, uniform_scale=uniform
    )
    options = {"latent_dim": LATENT_DIM}
    if released:
        return models.vae(
            *pair, posterior=released_posterior(net, correlated=correlated), **options
        )
    options["posterior"] = net_posterior(net, POSTERIORS[method])
    if net == "info":
        return models.info_vae(*pair, alpha=ALPHA, lambda_=LAMBDA, **options)
    return models.vae(*pair, beta=BETA if net == "beta" else 1.0, **options)


def side_of(net: str) -> int:
    """Returns the side of the images that a net is given."""
    return 64 if net == "beta" else 28


def preprocess_for(side: int) -> Preprocess:
    """Returns grey pixels in [0, 1], resized to `side` x `side` (bilinear, rounded to bytes) where
    they are not."""
    grey = make_preprocess("grey")

    def preprocess(rng, examples) -> Batch:
        x = grey(rng, examples).x
        if x.shape[1:3] != (side, side):
            x = jax.image.resize(x, (x.shape[0], side, side, x.shape[3]), "bilinear")
            x = jnp.clip(jnp.round(255.0 * x), 0.0, 255.0) / 255.0
        return Batch(x)

    return preprocess


def with_released_loss(model: Model) -> Model:
    """Returns `model` whose terms also have the `released_loss` [B] of each example: rec + what its
    convention pays.

    The released code's batch of 128 divides the AR(1) part; beta and MMD, which that code lacks,
    are left out.
    """

    def terms(params, state, rng, batch: Batch, *, stats="running") -> Terms:
        q = model.encode(params, state, batch.x, stats=stats)
        z = distributions.sample(rng, q)
        rec = -distributions.log_prob(model.decode(params, state, z, stats=stats), batch.x)
        paid = distributions.penalty(q, z, BATCH_SIZE)
        return Terms(
            rec, distributions.kl(q), {"released_loss": rec + paid, **distributions.metrics(q)}
        )

    return model._replace(terms=terms)


def optimiser() -> optax.GradientTransformation:
    """Returns Adam at 1e-3."""
    return optax.adam(LEARNING_RATE)
