"""What several presets build from their options: nets, optimisers, and what a model is told."""

from typing import Any

import jax.numpy as jnp
import optax

from jaxvae import distributions, nets, objectives
from jaxvae.data.preprocess import make_preprocess
from jaxvae.errors import UserError
from jaxvae.presets.config import VAE, Options, System
from jaxvae.train.step import groups
from jaxvae.types import Model, Net


def system(config: VAE, model: Model, num_classes: int | None) -> System:
    """Returns `model` with optimiser, preprocessing and what its numbers mean."""
    classes = num_classes if config.conditional else None
    return System(
        model,
        optimiser(config, model),
        make_preprocess(config.pixels, classes),
        classes=classes,
        latent_dim=config.latent_dim,
        pixels=config.pixels,
        likelihood=config.likelihood,
    )


def elbo_options(config: VAE) -> dict[str, Any]:
    """Returns what `models.vae` is told beside its nets."""
    warmup, beta = config.beta_warmup, config.beta
    return {
        "latent_dim": config.latent_dim,
        "posterior": config.posterior,
        "likelihood": config.likelihood,
        "gamma": config.gamma,
        "free_bits": config.free_bits,
        "beta": objectives.linear_warmup(warmup, beta) if warmup else beta,
    }


def introspective_options(config: Any) -> dict[str, Any]:
    """Returns what introspective models are told beside their nets.

    Raises:
        UserError: for options of the VAE that they do not have.
    """
    if config.beta != 1.0 or config.beta_warmup or config.free_bits:
        raise UserError(
            "introspective models have no --beta, --beta-warmup and --free-bits: use --beta-rec, "
            "--beta-kl and --beta-neg."
        )
    names = ("latent_dim", "posterior", "convention", "beta_rec", "beta_kl", "beta_neg")
    return {name: getattr(config, name) for name in names}


def nets_of(config: VAE, shape: tuple[int, ...], num_classes: int | None) -> tuple[Net, Net]:
    """Returns encoder and decoder for data of `shape` [H, W, C] (or [n]).

    Raises:
        UserError: for labels that the data do not have, and options that the nets do not have.
    """
    if config.conditional and num_classes is None:
        raise UserError(f"--conditional needs labels, which {config.data} does not have.")
    if config.net == "infogan":
        return _infogan(config, shape)
    outputs = distributions.posterior(config.posterior).size(config.latent_dim)
    common = {"act": config.activation, "init": config.init, "dtype": jnp.dtype(config.dtype)}
    if config.net == "mlp":
        encoder = nets.mlp(config.hidden, outputs, heads=_heads(config), **common)
        return encoder, nets.mlp(config.hidden[::-1], shape, **common)
    if len(config.hidden) != 1:
        raise UserError("--net conv has one dense layer: give one width to --hidden.")
    common["hidden"] = config.hidden[0]
    encoder = nets.conv_encoder(outputs, channels=config.channels, **common)
    return encoder, nets.conv_decoder(shape, channels=config.channels[::-1], **common)


def _heads(config: VAE) -> Any:
    """Returns the outputs with weights of their own: mean and logvar, or mean, rho and logvar."""
    if config.posterior not in distributions.POSTERIORS:
        return 1
    dim = config.latent_dim
    return (dim, dim) if config.posterior == "normal" else (dim, 1, 1)


def _infogan(config: VAE, shape: tuple[int, ...]) -> tuple[Net, Net]:
    """Returns InfoGAN-style encoder and decoder; raises `UserError` for what they do not have."""
    names = ("hidden", "channels", "activation", "init")
    given = [name for name in names if getattr(config, name) != getattr(VAE, name)]
    if given:
        raise UserError(
            f"--net infogan has layers of its own: leave out --{' and --'.join(given)}, or use "
            "--net mlp or conv."
        )
    if config.conditional:
        raise UserError("--net infogan takes no labels: use --net mlp or conv with --conditional.")
    options = {
        "latent_dim": config.latent_dim,
        "heads": _heads(config),
        "output": "logits" if config.likelihood == "bernoulli" else "sigmoid",
        "dtype": jnp.dtype(config.dtype),
    }
    try:
        return nets.infogan(shape, **options)
    except UserError as error:
        raise UserError(f"{error} Or use --net mlp or conv.") from None


def adam(config: Options, rate: float, *, every: int = 1, **options: Any) -> Any:
    """Returns Adam whose learning rate starts at `rate` and is halved as the options say.

    Args:
        every: steps for one update of what it moves: the optimiser counts updates.
        options: of `optax.adam`.
    """
    if config.lr_halve_every is None:
        return optax.adam(rate, **options)
    period = max(1, round(config.lr_halve_every / every))
    return optax.adam(optax.exponential_decay(rate, period, 0.5, staircase=True), **options)


def optimiser(config: VAE, model: Model) -> Any:
    """Returns Adam, or one for each parameter group where gamma has a learning rate of its own."""
    if config.gamma_learning_rate is None:
        return adam(config, config.learning_rate)
    names = groups(model)
    if "likelihood" not in names:
        raise UserError(
            "--gamma-learning-rate is for a learned gamma: use it with --likelihood gaussian "
            "--gamma learned."
        )
    rates = dict.fromkeys(names, config.learning_rate) | {"likelihood": config.gamma_learning_rate}
    return {name: adam(config, rate) for name, rate in rates.items()}
