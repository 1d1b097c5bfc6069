"""The preset `translation`."""

import dataclasses
import functools
from typing import TYPE_CHECKING, Annotated, Any, Literal

from jaxvae.errors import UserError
from jaxvae.presets.config import Number, Options, Preset, System, Width, optional

if TYPE_CHECKING:
    from jaxvae.models.introspective import Error

# that a plain VAE does not have
OF_FAKES = ("beta_neg_content", "beta_neg_class", "s", "gamma_r", "convention")
KL = ("beta_kl_content", "beta_kl_class")


@dataclasses.dataclass(frozen=True)
class Translation(Options):
    """Train a translation of images between classes without labels (Daniel & Tamar 2021)."""

    method: Literal["soft_intro_vae", "vae"] = "soft_intro_vae"
    """A Soft-IntroVAE with two encoders, or the plain VAE of the same nets."""
    error: Literal["squared", "vgg", "squeeze"] = "squared"
    """Of reconstructions: of pixels, or of pixels and features of VGG16, or of SqueezeNet where VGG's
    weights are not there."""
    content_dim: Width = 128
    """Size of the content's latent."""
    class_dim: Width = 256
    """Size of the class's latent."""
    channels: Annotated[tuple[int, ...] | None, optional("N ...")] = None
    """Channels of the encoders' convolutions, of which each after the first halves the sides (default:
    64 128 256 256 256, as many as leave four pixels a side)."""
    shrink: int = 1
    """Divides all widths."""
    beta_rec: float = 1.0
    """Weight of the error."""
    beta_kl_content: float = 1.0
    """Weight of the content's KL."""
    beta_kl_class: float = 1.0
    """Weight of the class's KL."""
    beta_neg_content: Number = None
    """Weight of the content's KL of fakes in the exponential (default: 2048)."""
    beta_neg_class: Number = None
    """Weight of the class's KL of fakes (default: 1024)."""
    s: Number = None
    """Scale of the ELBO (default: 1 / number of values of an example)."""
    gamma_r: Number = None
    """Weight of the fakes' error in the decoder (default: 1e-8)."""
    convention: Annotated[Literal["paper", "released"] | None, optional("paper|released")] = None
    """What is held fixed, as of soft_intro_vae (default: released)."""
    learning_rate: float = 1e-4
    """Of Adam."""
    batch_size: int = 64
    """Examples per step, over all devices."""

    @property
    def convolves(self) -> bool:
        """Whether the nets convolve."""
        return True

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        super().check()
        self.check_counts("content_dim", "class_dim", "shrink")
        weights = ("beta_rec", *KL, "beta_neg_content", "beta_neg_class", "gamma_r")
        self.check_numbers(*weights, least=0.0)
        self.check_numbers("s", above=0.0)
        given = [name for name in OF_FAKES if getattr(self, name) is not None]
        if self.method == "vae" and given:
            words = " and ".join(f"--{name.replace('_', '-')}" for name in given)
            raise UserError(f"a plain VAE has no fakes: leave out {words} with --method vae.")


def build(config: Translation, shape: tuple[int, ...], num_classes: int | None) -> System:
    """Returns the model of these options, for images of `shape` [H, W, C]."""
    import jax.numpy as jnp

    from jaxvae import models, nets
    from jaxvae.data.preprocess import make_preprocess
    from jaxvae.metrics import perceptual
    from jaxvae.presets import optimise, parts

    dims: dict[str, Any] = {"content_dim": config.content_dim, "class_dim": config.class_dim}
    trio = nets.translation(
        shape, **dims, channels=config.channels, shrink=config.shrink, dtype=jnp.dtype(config.dtype)
    )
    options: dict[str, Any] = {name: getattr(config, name) for name in ("beta_rec", *KL)}
    if config.error != "squared":
        perceptual.check_shape(config.error, shape)
        options["error"] = _error(config.error)
    if config.method == "vae":
        model = models.plain_translation(*trio, **dims, **options)
    else:
        given = {name: getattr(config, name) for name in OF_FAKES}
        options |= {name: value for name, value in given.items() if value is not None}
        model = models.translation(*trio, **dims, **options)
    return System(
        model,
        optimise.transformation(config, config.learning_rate),
        make_preprocess(),
        parts.augmentation(config),
        latent_dim=sum(dims.values()),
        likelihood="gaussian",
    )


def _error(net: str) -> "Error":
    """Returns the perceptual error of a net whose weights are read when it is first called, that is
    before the first step: a trained model is used without them."""
    from jaxvae.metrics import perceptual

    made = functools.cache(lambda: perceptual.make_error(net))

    def error(x: Any, x_hat: Any) -> Any:
        return made()(x, x_hat)

    return error


PRESET = Preset(
    Translation, build, equation="Soft-IntroVAE's, with a content and a class z of each image"
)
