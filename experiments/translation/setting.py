"""What the translation experiments of the Soft-IntroVAE paper trained (section 6.4, appendix 9.3), and the
narrow nets on coloured digits that stand in for them on a CPU.

LORD's nets (`jaxvae/nets/translation.py`), Adam without decay, pixels in [0, 1], s = 1 / (pixels x
channels), alpha = 2, gamma_r = 1e-8, no plain VAE before. s, alpha, gamma_r, the slope of the leaky
ReLU and Adam's decays are not in the paper: those of its other experiments and of PyTorch stand in.
"""

import math
from typing import Any, NamedTuple

import optax

from jaxvae import models, nets
from jaxvae.metrics import perceptual
from jaxvae.train import Phase
from jaxvae.types import Model

PRECISION = "float32, highest"
# method -> the model's method, and the error that its loss pays; None: that of the setting
METHODS = {
    "vae": ("vae", None),
    "soft_intro_vae": ("soft_intro_vae", None),
    "soft_intro_vae_squeeze": ("soft_intro_vae", "squeeze"),
}
# by which an error's weight is multiplied in place of the squared one's: of coloured digits SqueezeNet's
# is some 200 times as large
RELATIVE = {"squeeze": 1 / 200}
BACKBONES = ("squeeze", "alex", "vgg")  # of LPIPS, which the paper does not name


class Setting(NamedTuple):
    """How a data set is trained on."""

    data: str  # what `jaxvae.data.load` calls it; a folder of images where it has a `side`
    truth: str  # how the truth of a translation is known: "views", "colours", or "" where it is not
    shape: tuple[int, int, int]
    images: int  # of the training split
    error: str  # "squared", or the net of `metrics.perceptual`
    beta_rec: float
    beta_kl: float  # of both latents
    beta_neg_content: float = 2048.0
    beta_neg_class: float = 1024.0
    content_dim: int = 128
    class_dim: int = 256
    batch_size: int = 64
    epochs: int = 400
    learning_rate: float = 1e-4
    gamma_r: float = 1e-8
    shrink: int = 1  # divides the widths
    convention: str = "torch"  # of the nets: which of LORD's two codes
    num_vae: int = 0  # epochs, of all of them, of a plain VAE before a Soft-IntroVAE


CARS, TEST_CARS, VIEWS = 183, 20, 96  # car models, those held out, and 24 azimuths by 4 elevations
PUBLISHED = {
    "cars3d": Setting("cars3d", "views", (64, 64, 3), (CARS - TEST_CARS) * VIEWS, "vgg", 0.5, 1.0),
    # how many frames were taken is not published; this is about every tenth of all videos'
    "kth": Setting("kth", "", (64, 64, 1), 26_000, "squared", 1.0, 0.5),
}
# an eighth of the widths, two epochs, KTH's error and weights. With s = 1 / 2352 a beta_neg of 384 is
# the 128 that the authors advise for grey MNIST, where s = 1 / 784; the class has half of it, as
# published. gamma_r is left out: it costs a third of a step, and 1e-8 moves nothing. Of LORD's codes
# that of its paper starts such a short run better: its initialiser does not drown the content in biases.
# The first epoch is a plain VAE's: without it the content was given up before the nets could show it
NARROW_DIGITS = Setting(
    "mnist",
    "colours",
    (28, 28, 3),
    60_000,
    "squared",
    1.0,
    0.5,
    beta_neg_content=384.0,
    beta_neg_class=192.0,
    content_dim=32,
    class_dim=4,
    batch_size=32,
    epochs=2,
    learning_rate=5e-4,
    gamma_r=0.0,
    shrink=8,
    convention="tensorflow",
    num_vae=1,
)
NARROW = {"mnist": NARROW_DIGITS, "fashion_mnist": NARROW_DIGITS._replace(data="fashion_mnist")}


def chosen_for(setting: Setting, method: str) -> Setting:
    """Returns the setting with the error that a method pays."""
    error = METHODS[method][1]
    if error is None:
        return setting
    return setting._replace(error=error, beta_rec=setting.beta_rec * RELATIVE[error])


def suffix(setting: Setting) -> str:
    """Returns what a narrow net adds to the name of a protocol: nothing at the published size."""
    if setting.shrink == 1:
        return ""
    epochs = f"{setting.epochs} epoch{'s' if setting.epochs > 1 else ''}"
    return f", widths / {setting.shrink}, {epochs}"


def build(method: str, setting: Setting, shape: tuple[int, ...], error: Any = None) -> Model:
    """Returns the model of a method of the paper, or the plain VAE of the same nets and errors.

    Args:
        error: in place of the setting's own, so that its weights need not be there.

    Raises:
        UserError: for a perceptual error whose weights are not there.
    """
    dims = {"content_dim": setting.content_dim, "class_dim": setting.class_dim}
    trio = nets.translation(shape, shrink=setting.shrink, convention=setting.convention, **dims)
    options: dict[str, Any] = {
        **dims,
        "beta_rec": setting.beta_rec,
        "beta_kl_content": setting.beta_kl,
        "beta_kl_class": setting.beta_kl,
    }
    if error is not None:
        options["error"] = error
    elif setting.error != "squared":
        options["error"] = perceptual.make_error(setting.error)
    if METHODS[method][0] == "vae":
        return models.plain_translation(*trio, **options)
    names = ("beta_neg_content", "beta_neg_class", "gamma_r")
    return models.translation(*trio, **options, **{name: getattr(setting, name) for name in names})


def phases(
    method: str, setting: Setting, shape: tuple[int, ...], epoch: float, error: Any = None
) -> list[Phase]:
    """Returns the run of a method: `num_vae` epochs of a plain VAE where it is a Soft-IntroVAE, then the
    rest.

    Args:
        epoch: steps of one, which need not be whole.
        error: as `build` takes it.

    Raises:
        UserError: as `build`.
    """
    steps = math.ceil(setting.epochs * epoch)
    num_vae = 0 if METHODS[method][0] == "vae" else math.ceil(setting.num_vae * epoch)
    model = build(method, setting, shape, error)
    if not num_vae:
        return [Phase(model, steps)]
    return [Phase(build("vae", setting, shape, error), num_vae), Phase(model, steps - num_vae)]


def optimiser(setting: Setting) -> optax.GradientTransformation:
    """Returns Adam."""
    return optax.adam(setting.learning_rate)
