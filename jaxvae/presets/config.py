"""What a preset is: options as plain data, and the functions that make a model of them. And the
options that most presets share: those of a VAE.

Those that every preset has are in `options`, and imported here under their own names; nothing heavy is
imported until something is built.
"""

import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from tyro.conf import arg

from jaxvae.errors import UserError
from jaxvae.presets.options import PLACES as PLACES
from jaxvae.presets.options import QUICK as QUICK
from jaxvae.presets.options import QUICK_HELD_OUT as QUICK_HELD_OUT
from jaxvae.presets.options import QUICK_STEPS as QUICK_STEPS
from jaxvae.presets.options import QUICK_TRAIN as QUICK_TRAIN
from jaxvae.presets.options import WITH_BETA1 as WITH_BETA1
from jaxvae.presets.options import WITH_MOMENTUM as WITH_MOMENTUM
from jaxvae.presets.options import Count as Count
from jaxvae.presets.options import Folder as Folder
from jaxvae.presets.options import Layers as Layers
from jaxvae.presets.options import Number as Number
from jaxvae.presets.options import Optimizer as Optimizer
from jaxvae.presets.options import Options as Options
from jaxvae.presets.options import Text as Text
from jaxvae.presets.options import Width as Width
from jaxvae.presets.options import WidthOrNone as WidthOrNone
from jaxvae.presets.options import optional as optional

if TYPE_CHECKING:
    from jaxvae.data import Source
    from jaxvae.types import Model

AR1 = ("ar1", "ar1-readme", "ar1-released")  # the last two pay no KL of what they sample
CHANNELS = (32, 64)  # of --net conv
OF_NET = {  # --net -> the options that its layers have
    "mlp": ("hidden", "activation", "init"),
    "conv": ("hidden", "channels", "activation", "init"),
    "infogan": (),
    "intro": ("channels", "norm", "remat"),
}


class Data(NamedTuple):
    """The three splits of a run."""

    train: "Source"
    valid: "Source"
    test: "Source"


def plain_batch(rng: Any, examples: Any) -> Any:
    """Returns examples as a `Batch` without a condition: bytes as floats in [0, 1]."""
    from jaxvae.data.preprocess import make_preprocess

    return make_preprocess()(rng, examples)


class System(NamedTuple):
    """What options become: a model, how it is trained, and what its numbers mean."""

    model: "Model"  # what is evaluated, used and loaded
    tx: Any = None  # optimisers, as `fit` takes them; None where stages have their own
    preprocess: Any = plain_batch  # (rng, examples) -> Batch
    augment: Any = None  # (rng, Batch) -> Batch, of what is trained on alone
    phases: Callable[[int, int], Any] | None = None  # (steps, size of the training split) -> list
    # of Phase, whose last model is `model`, or evaluates as it does, and whose earlier edges do not
    # depend on steps; None: `model` all along
    classes: int | None = None  # of the labels that it is conditioned on
    on_examples: str | None = None  # what of examples it is conditioned on, where samples need some
    latent_dim: int | None = None
    latent: str = "z"  # what it encodes to, in words
    pixels: Literal["grey", "binarised", "dequantised"] = (
        "grey"  # what its likelihood is of: grey, binarised or dequantised
    )
    likelihood: str | None = None  # family of p(x|z), where there is one
    dims: int | None = None  # numbers of an example that it is of; None: all


@dataclasses.dataclass(frozen=True)
class VAE(Options):
    """Train a variational auto-encoder (Kingma & Welling 2014)."""

    net: Literal["mlp", "conv", "infogan", "intro"] = "mlp"
    """Networks of encoder and decoder; infogan takes images whose sides 4 divides; intro, the
    residual nets of Soft-IntroVAE, square ones of 28, 32, 64, 128, 256, 512 or 1024 pixels, others
    with --channels."""
    hidden: tuple[int, ...] = (400,)
    """Widths of the encoder's hidden layers, reversed in the decoder (conv: the dense layer)."""
    channels: Annotated[tuple[int, ...] | None, optional("N ...")] = None
    """Channels of the encoder's convolutions, reversed in the decoder (default: conv 32 64; intro
    those published for images of this size)."""
    norm: Literal["batch", "group", "none"] = "batch"
    """What normalises the features of intro."""
    remat: bool = False
    """Compute features of intro again for gradients, to save memory."""
    activation: str = "relu"
    """Activation of hidden layers: relu, leaky_relu, tanh, elu, sigmoid, softplus, identity."""
    init: str = "torch"
    """Initialiser: torch, glorot, xavier, normal0.02."""
    latent_dim: Width = 10
    """Size of z; with 2, the run also draws the latent manifold."""
    posterior: str = "normal"
    """Family of q(z|x): normal, ar1, ar1-readme, ar1-released."""
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    """Family of p(x|z)."""
    gamma: Annotated[float | Literal["learned"], arg(metavar="FLOAT|learned")] = 1.0
    """Variance of a Gaussian likelihood, or "learned"."""
    gamma_learning_rate: Number = None
    """That of a learned gamma's log standard deviation (default: the same)."""
    beta: float = 1.0
    """Weight of the KL."""
    beta_warmup: int = 0
    """Steps over which beta rises from 0."""
    beta_cycle: Count = None
    """Steps of one cycle, in whose first half beta rises from 0, again and again (default: none)."""
    free_bits: float = 0.0
    """Nats per latent dimension that cost nothing."""
    pixels: Literal["grey", "binarised", "dequantised"] = "grey"
    """Pixels as they are, drawn as 0 or 1 at every visit, or with uniform noise added."""
    conditional: bool = False
    """Condition encoder and decoder on the label."""

    pays_kl: ClassVar[bool] = False  # whether the loss is of the KL of what is sampled alone

    def __post_init__(self) -> None:
        """Fills in the default that depends on the net."""
        if self.channels is None and self.net != "intro":
            object.__setattr__(self, "channels", CHANNELS)

    @property
    def convolves(self) -> bool:
        """Whether the nets convolve."""
        return self.net != "mlp"

    def check(self) -> None:
        """Raises `UserError` for settings that no run can have."""
        super().check()
        self._check_net()
        self.check_counts("latent_dim")
        self.check_counts("beta_warmup", least=0)
        self.check_counts("beta_cycle", least=2)
        self.check_numbers("gamma_learning_rate", above=0.0)
        self.check_numbers("beta", "free_bits", least=0.0)
        self._check_distributions()
        if self.beta_cycle is not None and self.beta_warmup:
            raise UserError(
                "give --beta-warmup or --beta-cycle, not both: each says how beta rises."
            )
        if self.beta_cycle is not None and self.beta == 0.0:
            raise UserError(
                "--beta-cycle raises beta from 0, and --beta is 0: leave one of them out."
            )

    def _check_distributions(self) -> None:
        """Raises `UserError` for a posterior or a variance that the loss does not have."""
        if self.pays_kl and self.posterior in AR1[1:]:
            raise UserError(
                f"--posterior {self.posterior} pays something else than the KL of what it samples, for "
                "which this loss has no place: use --posterior ar1 or normal, or train the preset "
                "rho_vae."
            )
        if self.free_bits and self.posterior in AR1:
            raise UserError(
                f"--free-bits needs a KL for each dimension, which --posterior {self.posterior} does "
                "not have: leave it out, or use --posterior normal."
            )
        if self.gamma not in (1.0, type(self).gamma) and self.likelihood != "gaussian":
            raise UserError(
                "--gamma is the variance of a Gaussian p(x|z): use --likelihood gaussian with it, or "
                "leave it out."
            )
        if not isinstance(self.gamma, str):
            self.check_numbers("gamma", above=0.0)

    def _check_net(self) -> None:
        """Raises `UserError` for options of layers that the net does not have."""
        defaults = {name: getattr(VAE, name) for names in OF_NET.values() for name in names}
        defaults |= {"channels": CHANNELS}
        used = OF_NET[self.net]
        given = [n for n, value in defaults.items() if n not in used and getattr(self, n) != value]
        if not given:
            return
        have = f"has --{', --'.join(used)} alone" if used else "has layers of its own"
        fits = [
            net for net, names in OF_NET.items() if net != self.net and set(given) <= set(names)
        ]
        other = f", or use --net {' or '.join(fits)}" if fits else ""
        raise UserError(f"--net {self.net} {have}: leave out --{' and --'.join(given)}{other}.")


class Preset(NamedTuple):
    """A named kind of run. What is None is that of a single run of `System.model`."""

    options: type[Options]  # its docstring is what help says of it
    build: Callable[[Any, tuple[int, ...], int | None], System]  # (config, shape, num_classes)
    train: Callable | None = None  # (config, system, data, lengths) -> Fit
    load: Callable | None = None  # (workdir, step, config, system) -> Loaded
    stages: tuple[str, ...] = ()  # folders in RUN with a run each; the last one numbers the steps
    # (config, shape, num_classes, names) -> System: what a checkpoint with arrays of these names,
    # "params.decoder...", is of, where a run grows on its way; None: that of `build`
    reached: Callable[[Any, tuple[int, ...], int | None, Collection[str]], System] | None = None
    equation: str = ""  # what is minimised, in a line; its model card says it


def source(config: Options, split: str, data_dir: Path | None = None) -> "Source":
    """Returns a split of a config's data: the one called `split`, or the data set's "train",
    "valid" or "test"."""
    from jaxvae import data

    data_dir = config.data_dir if data_dir is None else data_dir
    if split in ("train", "valid", "test"):
        split = getattr(data.splits(config.data, data_dir), split)
    return data.load(config.data, split, data_dir=data_dir, size=config.size, crop=config.crop)
