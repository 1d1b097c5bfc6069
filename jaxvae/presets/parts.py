"""What several presets build from their options: nets, optimisers, and what a model is told."""

from typing import Any

import jax.numpy as jnp

from jaxvae import distributions, nets, objectives
from jaxvae.data.preprocess import flip, make_preprocess
from jaxvae.errors import UserError
from jaxvae.presets.config import CHANNELS, VAE, Options, System
from jaxvae.presets.optimise import transformation
from jaxvae.train.step import groups
from jaxvae.types import Model, Net


def system(config: VAE, model: Model, num_classes: int | None) -> System:
    """Returns `model` with optimiser, preprocessing and what its numbers mean."""
    classes = num_classes if config.conditional else None
    return System(
        model,
        optimiser(config, model),
        make_preprocess(config.pixels, classes),
        augment=augmentation(config),
        classes=classes,
        latent_dim=config.latent_dim,
        pixels=config.pixels,
        likelihood=config.likelihood,
    )


def augmentation(config: Options) -> Any:
    """Returns what is done to training batches alone, or None for nothing."""
    return flip if config.flip else None


def elbo_options(config: VAE) -> dict[str, Any]:
    """Returns what `models.vae` is told beside its nets."""
    return {
        "latent_dim": config.latent_dim,
        "posterior": config.posterior,
        "likelihood": config.likelihood,
        "gamma": config.gamma,
        "free_bits": config.free_bits,
        "beta": beta_of(config, config.beta),
    }


def beta_of(config: VAE, beta: float) -> objectives.Weight:
    """Returns the weight of the KL that ends at `beta`: a number, or a schedule of the step."""
    if config.beta_warmup:
        return objectives.linear_warmup(config.beta_warmup, beta)
    if config.beta_cycle is not None:
        return objectives.cyclical(config.beta_cycle, beta)
    return beta


def nets_of(
    config: VAE, shape: tuple[int, ...], num_classes: int | None, *, codes: bool = False
) -> tuple[Net, Net]:
    """Returns encoder and decoder for data of `shape` [H, W, C] (or [n]); with `codes` the encoder
    has one output for each latent, not those of a posterior.

    Raises:
        UserError: for labels that the data do not have, and options that the nets do not have.
    """
    if config.conditional and num_classes is None:
        raise UserError(f"--conditional needs labels, which {config.data} does not have.")
    dim = config.latent_dim
    outputs = dim if codes else distributions.posterior(config.posterior).size(dim)
    heads = (dim,) if codes else _heads(config)
    if config.net == "infogan":
        if codes:
            raise UserError("--net infogan ends in a scale: use --net mlp, conv or intro.")
        return _infogan(config, shape)
    if config.net == "intro":
        return _intro(config, shape, num_classes if config.conditional else None, heads)
    common = {"act": config.activation, "init": config.init, "dtype": jnp.dtype(config.dtype)}
    if config.net == "mlp":
        encoder = nets.mlp(config.hidden, outputs, heads=heads, **common)
        return encoder, nets.mlp(config.hidden[::-1], shape, **common)
    if len(config.hidden) != 1:
        raise UserError("--net conv has one dense layer: give one width to --hidden.")
    common["hidden"] = config.hidden[0]
    channels = config.channels or CHANNELS
    encoder = nets.conv_encoder(outputs, channels=channels, **common)
    return encoder, nets.conv_decoder(shape, channels=channels[::-1], **common)


def _heads(config: VAE) -> Any:
    """Returns the outputs with weights of their own: mean and logvar, or mean, rho and logvar."""
    if config.posterior not in distributions.POSTERIORS:
        return 1
    dim = config.latent_dim
    return (dim, dim) if config.posterior == "normal" else (dim, 1, 1)


def _infogan(config: VAE, shape: tuple[int, ...]) -> tuple[Net, Net]:
    """Returns InfoGAN-style encoder and decoder; raises `UserError` for what they do not take."""
    if config.conditional:
        raise UserError(
            "--net infogan takes no labels: use --net mlp, conv or intro with --conditional."
        )
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


def _intro(config: VAE, shape: tuple[int, ...], classes: int | None, heads: Any) -> tuple[Net, Net]:
    """Returns the residual encoder and decoder; raises `UserError` for images that they do not
    take."""
    try:
        return nets.intro(
            shape,
            latent_dim=config.latent_dim,
            channels=config.channels,
            norm=config.norm,
            remat=config.remat,
            heads=heads,
            num_classes=classes,
            dtype=jnp.dtype(config.dtype),
        )
    except UserError as error:
        raise UserError(
            f"{error} That is --size, for a folder of images, or --channels; or use --net mlp or "
            "conv."
        ) from None


def optimiser(config: VAE, model: Model) -> Any:
    """Returns one optimiser, or one for each parameter group where gamma has a learning rate of its
    own."""
    if config.gamma_learning_rate is None:
        return transformation(config, config.learning_rate)
    names = groups(model)
    if "likelihood" not in names:
        raise UserError(
            "--gamma-learning-rate is for a learned gamma: use it with --likelihood gaussian "
            "--gamma learned."
        )
    rates = dict.fromkeys(names, config.learning_rate) | {"likelihood": config.gamma_learning_rate}
    return {name: transformation(config, rate) for name, rate in rates.items()}
