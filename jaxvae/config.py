"""Settings of the command line, as plain data: one frozen dataclass per preset, and how each
becomes a model.

Nothing heavy is imported until something is built.
"""

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from tyro.conf import arg

from jaxvae.errors import UserError, check_count, check_number, check_seed, unknown

if TYPE_CHECKING:
    from jaxvae.data import Source
    from jaxvae.types import Batch, Model

Count = Annotated[int | None, arg(metavar="N")]
Text = Annotated[str | None, arg(metavar="STR")]
Folder = Annotated[Path | None, arg(metavar="DIR")]
Number = Annotated[float | None, arg(metavar="FLOAT")]


@dataclasses.dataclass(frozen=True)
class VAE:
    """Train a variational auto-encoder (Kingma & Welling 2014)."""

    workdir: Annotated[Path, arg(metavar="DIR")]
    """Folder of the run; a run in it with the same settings is resumed."""
    data: str = "digits"
    """Data set: a name of `jaxvae data list`, folder:PATH (images), npz:FILE, or tfds:NAME."""
    data_dir: Folder = None
    """Where the files of data sets are (default: $JAXVAE_DATA_DIR, $TFDS_DATA_DIR, ~/.cache/jaxvae,
    ~/tensorflow_datasets)."""
    size: Count = None
    """Height and width to which the images of a folder are resized."""
    crop: Count = None
    """Height and width of the centre of them that is kept, before that."""
    split: Text = None
    """Training split, e.g. "train[:1000]" (default: all but the validation and test parts, which it
    must leave out)."""

    # length and order
    steps: Count = None
    """Length of the run in steps."""
    epochs: Count = None
    """Length of the run in passes over the training split (default: 20)."""
    batch_size: int = 128
    """Examples per step, over all devices."""
    seed: int = 0
    """Seed of parameters, noise and data order."""

    # the model
    net: Literal["mlp", "conv", "infogan"] = "mlp"
    """Networks of encoder and decoder; infogan, the two-stage VAE's, is for images whose sides 4
    divides."""
    hidden: tuple[int, ...] = (400,)
    """Widths of the hidden layers (mlp: encoder order, reversed in the decoder; conv: the dense
    layer)."""
    channels: tuple[int, ...] = (32, 64)
    """Channels of the encoder's convolutions, reversed in the decoder."""
    activation: str = "relu"
    """Activation of hidden layers: relu, leaky_relu, tanh, elu, sigmoid, softplus, identity."""
    init: str = "torch"
    """Initialiser: torch, glorot, xavier, normal0.02."""
    latent_dim: int = 10
    """Size of z; with 2, the run also draws the latent manifold."""
    posterior: str = "normal"
    """Family of q(z|x): normal, ar1, ar1-readme, ar1-released."""
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    """Family of p(x|z)."""
    gamma: Annotated[float | Literal["learned"], arg(metavar="FLOAT|learned")] = 1.0
    """Variance of a Gaussian likelihood, or "learned"."""
    beta: float = 1.0
    """Weight of the KL."""
    beta_warmup: int = 0
    """Steps over which beta rises from 0."""
    free_bits: float = 0.0
    """Nats per latent dimension that cost nothing."""
    pixels: Literal["grey", "binarised", "dequantised"] = "grey"
    """Pixels as they are, drawn as 0 or 1 at every visit, or with uniform noise added."""
    conditional: bool = False
    """Condition encoder and decoder on the label."""

    # optimisation
    learning_rate: float = 1e-3
    """Of Adam."""
    gamma_learning_rate: Number = None
    """That of a learned gamma, whose log standard deviation Adam moves by at most so much a step
    (default: the same)."""
    max_grad_norm: Number = None
    """Clip gradients to this norm."""
    ema_decay: Number = None
    """Decay of a moving average of the parameters, used in evaluation."""
    accumulate: int = 1
    """Cut each batch into so many parts to save memory."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the networks' computation; parameters and losses are float32."""
    precision: Literal["default", "high", "highest"] = "highest"
    """Precision of float32 matrix products; "default" is TF32 on NVIDIA GPUs, bfloat16 on TPUs."""

    # what is kept
    log_every: int = 100
    """Steps between lines of metrics.jsonl."""
    eval_every: Count = None
    """Steps between evaluations on the validation split, each with a checkpoint (default: ten in a
    run)."""
    save_every: Count = None
    """Steps between further checkpoints."""
    keep: int = 2
    """Newest checkpoints to keep, beside the best one."""
    progress: bool = True
    """Show the progress bar."""
    tensorboard: bool = False
    """Also write the log for TensorBoard, into RUN/tensorboard."""


@dataclasses.dataclass(frozen=True)
class RhoVAE(VAE):
    """Train a VAE with an AR(1) posterior (the rho-VAE)."""

    posterior: Literal["ar1", "ar1-readme", "ar1-released"] = "ar1"
    """Correct AR(1), the recursion that the paper prints, or what its code computes."""


@dataclasses.dataclass(frozen=True)
class InfoVAE(VAE):
    """Train an InfoVAE: a VAE with a maximum mean discrepancy (Zhao et al. 2017)."""

    alpha: float = 0.0
    """KL's weight is 1 - alpha; 1 leaves MMD alone (WAE-MMD)."""
    lambda_mmd: float = 100.0
    """MMD's weight is alpha + lambda_mmd - 1."""
    kernel: Literal["gaussian", "imq"] = "gaussian"
    """Of MMD: exp(-d^2 / D^2), or 2 D / (2 D + d^2)."""


@dataclasses.dataclass(frozen=True)
class SoftIntroVAE(VAE):
    """Train a Soft-IntroVAE (Daniel & Tamar 2021)."""

    likelihood: Literal["gaussian"] = "gaussian"
    """The error is the plain squared one: that of a Gaussian with variance 1/2."""
    gamma: Literal[0.5] = 0.5
    """That variance."""
    beta_rec: float = 1.0
    """Weight of the squared error."""
    beta_kl: float = 1.0
    """Weight of the KL of data."""
    beta_neg: Number = None
    """Weight of the KL of fakes in the exponential (default: the size of z)."""
    gamma_r: float = 1e-8
    """Weight of the fakes' error in the decoder."""
    convention: Literal["paper", "released"] = "released"
    """What is held fixed: as in Algorithm 2, or as in the authors' code."""
    learning_rate: float = 2e-4
    """Of Adam."""


@dataclasses.dataclass(frozen=True)
class IntroVAE(VAE):
    """Train an IntroVAE (Huang et al. 2018); it needs --m."""

    likelihood: Literal["gaussian"] = "gaussian"
    """The error is the plain squared one: that of a Gaussian with variance 1/2."""
    gamma: Literal[0.5] = 0.5
    """That variance."""
    m: Number = None
    """Margin on the KL of fakes, in nats; there is no value that works everywhere."""
    beta_rec: float = 1.0
    """Weight of the squared error."""
    beta_kl: float = 1.0
    """Weight of the KL of data."""
    beta_neg: float = 1.0
    """Weight of the hinge."""
    convention: Literal["paper", "released"] = "paper"
    """The hinge of each example, or of the batch mean as in IntroVAE's own code."""
    learning_rate: float = 2e-4
    """Of Adam."""


@dataclasses.dataclass(frozen=True)
class TwoStageVAE(VAE):
    """Train a two-stage VAE: a VAE, then a second one on its latents (Dai & Wipf 2019)."""

    net: Literal["mlp", "conv", "infogan"] = "infogan"
    """Networks of encoder and decoder in the first stage; infogan is for images whose sides 4
    divides."""
    latent_dim: int = 64
    """Size of z, and of u behind it; with 2, the run also draws the manifold of u."""
    likelihood: Literal["bernoulli", "gaussian"] = "gaussian"
    """Family of p(x|z); the second stage's is Gaussian."""
    gamma: Annotated[float | Literal["learned"], arg(metavar="FLOAT|learned")] = "learned"
    """Variance of a Gaussian p(x|z), or "learned"; the second stage's is learned."""
    beta_warmup: int = 0
    """Steps over which beta rises from 0, in each stage (to 1 in the second)."""
    learning_rate: float = 1e-4
    """Of Adam, in both stages."""
    gamma_learning_rate: Number = 1e-3
    """That of both gammas; as released 1e-4, for runs of hundreds of epochs."""
    second_steps: Count = None
    """Length of the second stage in steps (default: twice that of the first)."""
    second_epochs: Count = None
    """Length of the second stage in passes over the latents."""
    second_width: int = 1024
    """Width of the second stage's hidden layers."""
    second_depth: int = 3
    """Number of them, each way."""
    noise_on_z: bool = True
    """Sample z with the second stage's variance, as released; without it z is its mean."""


PRESETS: dict[str, Any] = {
    "vae": VAE,
    "rho_vae": RhoVAE,
    "info_vae": InfoVAE,
    "two_stage_vae": TwoStageVAE,
    "soft_intro_vae": SoftIntroVAE,
    "intro_vae": IntroVAE,
}
PLACES = ("workdir", "data_dir")  # where things lie does not describe a run


def command(config: VAE) -> str:
    """Returns the words after `jaxvae` that give `config`: the options that differ from the
    defaults."""
    words = ["train", next(name for name, cls in PRESETS.items() if type(config) is cls)]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == field.default:
            continue
        option = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [
                f"--{option}",
                *(str(v) for v in (value if isinstance(value, tuple) else (value,))),
            ]
    return shlex.join(words)


class Parts(NamedTuple):
    """What a config becomes."""

    model: "Model"
    tx: Any
    preprocess: Any


def check(config: VAE) -> None:
    """Raises `UserError` for settings that no run can have, before anything heavy is imported."""
    if config.steps is not None and config.epochs is not None:
        raise UserError("give --steps or --epochs, not both.")
    if getattr(config, "second_steps", None) is not None and config.second_epochs is not None:
        raise UserError("give --second-steps or --second-epochs, not both.")
    for name in (
        "steps",
        "epochs",
        "batch_size",
        "latent_dim",
        "accumulate",
        "log_every",
        "eval_every",
        "save_every",
        "keep",
        "size",
        "crop",
        "second_steps",
        "second_epochs",
        "second_width",
        "second_depth",
    ):
        if getattr(config, name, None) is not None:
            check_count(f"--{name.replace('_', '-')}", getattr(config, name))
    check_count("--beta-warmup", config.beta_warmup, least=0)
    check_seed("--seed", config.seed)
    check_number("--learning-rate", config.learning_rate, above=0.0)
    if config.gamma_learning_rate is not None:
        check_number("--gamma-learning-rate", config.gamma_learning_rate, above=0.0)
    for name in ("beta", "free_bits"):
        check_number(f"--{name.replace('_', '-')}", getattr(config, name), least=0.0)


def source(config: VAE, split: str | None, data_dir: Path | None = None) -> "Source":
    """Returns a split of a config's data: the one called `split`, or the data set's "train",
    "valid" or "test"."""
    from jaxvae import data

    data_dir = config.data_dir if data_dir is None else data_dir
    if split in ("train", "valid", "test"):
        split = getattr(data.splits(config.data, data_dir), split)
    own = {name: getattr(config, name, None) for name in ("size", "crop")}
    return data.load(config.data, split, data_dir=data_dir, **own)


def as_dict(config: VAE, shape: tuple[int, ...], num_classes: int | None) -> dict[str, Any]:
    """Returns what `config.json` records: the preset, every field, and the shape of the data."""
    preset = next(name for name, cls in PRESETS.items() if type(config) is cls)
    fields = dataclasses.asdict(config)
    for name in PLACES:
        fields.pop(name)
    return {"preset": preset, **fields, "shape": list(shape), "num_classes": num_classes}


def build(config: VAE, shape: tuple[int, ...], num_classes: int | None) -> Parts:
    """Returns model, optimiser and preprocessing for data of `shape` [H, W, C] (or [n]) with
    `num_classes` labels."""
    import jax.numpy as jnp

    from jaxvae import distributions, models, nets, objectives
    from jaxvae.data.preprocess import make_preprocess

    if isinstance(config, TwoStageVAE):  # no optimiser: each stage has its own
        from jaxvae import stages

        return stages.build(config, shape, num_classes)
    if config.conditional and num_classes is None:
        raise UserError(f"--conditional needs labels, which {config.data} does not have.")
    q, dim = distributions.posterior(config.posterior), config.latent_dim
    out, heads = q.size(dim), 1
    if config.posterior in distributions.POSTERIORS:  # mean and logvar; or mean, rho and logvar
        heads = (dim, dim) if config.posterior == "normal" else (dim, 1, 1)
    common = {"act": config.activation, "init": config.init, "dtype": jnp.dtype(config.dtype)}
    if config.net == "mlp":
        encoder = nets.mlp(config.hidden, out, heads=heads, **common)
        decoder = nets.mlp(config.hidden[::-1], shape, **common)
    elif config.net == "infogan":
        encoder, decoder = _infogan(config, shape, heads)
    else:
        if len(config.hidden) != 1:
            raise UserError("--net conv has one dense layer: give one width to --hidden.")
        encoder = nets.conv_encoder(
            out, channels=config.channels, hidden=config.hidden[0], **common
        )
        decoder = nets.conv_decoder(
            shape, channels=config.channels[::-1], hidden=config.hidden[0], **common
        )
    beta = (
        objectives.linear_warmup(config.beta_warmup, config.beta)
        if config.beta_warmup
        else config.beta
    )
    options = {"latent_dim": config.latent_dim, "posterior": config.posterior}
    likelihood = {
        "likelihood": config.likelihood,
        "gamma": config.gamma,
        "free_bits": config.free_bits,
    }
    if isinstance(config, InfoVAE):
        if config.beta != 1.0 or config.beta_warmup:
            raise UserError("info_vae has no --beta: KL's weight is 1 - alpha; use --alpha.")
        mmd = {"alpha": config.alpha, "lambda_": config.lambda_mmd, "kernel": config.kernel}
        model = models.info_vae(encoder, decoder, **mmd, **options, **likelihood)
    elif isinstance(config, (SoftIntroVAE, IntroVAE)):
        if config.beta != 1.0 or config.beta_warmup or config.free_bits:
            raise UserError(
                "introspective models have no --beta, --beta-warmup and --free-bits: use "
                "--beta-rec, --beta-kl "
                "and --beta-neg."
            )
        weights = {
            "beta_rec": config.beta_rec,
            "beta_kl": config.beta_kl,
            "beta_neg": config.beta_neg,
        }
        own = {"gamma_r": config.gamma_r} if isinstance(config, SoftIntroVAE) else {"m": config.m}
        make = models.soft_intro_vae if isinstance(config, SoftIntroVAE) else models.intro_vae
        model = make(encoder, decoder, convention=config.convention, **weights, **own, **options)
    else:
        model = models.vae(encoder, decoder, beta=beta, **options, **likelihood)
    preprocess = make_preprocess(config.pixels, num_classes if config.conditional else None)
    return Parts(model, optimiser(config, model), preprocess)


def _infogan(config: VAE, shape: tuple[int, ...], heads: tuple[int, ...]) -> Any:
    """Returns the InfoGAN-style encoder and decoder; raises `UserError` for what they do not
    have."""
    import jax.numpy as jnp

    from jaxvae import nets

    given = [
        name
        for name in ("hidden", "channels", "activation", "init")
        if getattr(config, name) != getattr(VAE, name)
    ]
    if given:
        raise UserError(
            f"--net infogan has layers of its own: leave out --{' and --'.join(given)}, or use "
            "--net mlp or conv."
        )
    if config.conditional:
        raise UserError("--net infogan takes no labels: use --net mlp or conv with --conditional.")
    output = "logits" if config.likelihood == "bernoulli" else "sigmoid"
    try:
        return nets.infogan(
            shape,
            latent_dim=config.latent_dim,
            heads=heads,
            output=output,
            dtype=jnp.dtype(config.dtype),
        )
    except UserError as error:
        raise UserError(f"{error} Or use --net mlp or conv.") from None


def optimiser(config: VAE, model: "Model") -> Any:
    """Returns Adam, or one for each parameter group where gamma has a learning rate of its own."""
    import optax

    from jaxvae.step import groups

    if config.gamma_learning_rate is None:
        return optax.adam(config.learning_rate)
    if "likelihood" not in groups(model):
        raise UserError(
            "--gamma-learning-rate is for a learned gamma: use it with --likelihood gaussian "
            "--gamma learned."
        )
    rates = dict.fromkeys(groups(model), config.learning_rate) | {
        "likelihood": config.gamma_learning_rate
    }
    return {name: optax.adam(rate) for name, rate in rates.items()}


def from_dict(saved: dict[str, Any]) -> tuple[VAE, tuple[int, ...], int | None]:
    """Returns the config, data shape and number of classes that `as_dict` recorded.

    Raises:
        UserError: for a run that no preset made, or that another version of jaxvae made.
    """
    fields = dict(saved)
    preset = fields.pop("preset", None)
    if "first_step" in saved:
        raise UserError(
            "this is the second stage of a run, which cannot be used alone: use the folder it is "
            "in."
        )
    if preset is None:
        raise UserError(
            "this run was made by fit, not by a preset: pass its model and an example batch to "
            "load."
        )
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    shape, num_classes = tuple(fields.pop("shape")), fields.pop("num_classes")
    cls = PRESETS[preset]
    known = {f.name for f in dataclasses.fields(cls)}
    if set(fields) - known:
        raise UserError(
            "this run has settings that this version does not know: "
            f"{', '.join(sorted(set(fields) - known))}."
        )
    fields = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    return cls(workdir=Path(), **fields), shape, num_classes


def rebuild(saved: dict[str, Any]) -> tuple["Model", "Batch"]:
    """Returns the model of a run from its recorded config, and a batch in the shape of its data."""
    import jax
    import jax.numpy as jnp

    from jaxvae.types import Batch

    config, shape, num_classes = from_dict(saved)
    cond = jax.ShapeDtypeStruct((2, num_classes), jnp.float32) if config.conditional else None
    return build(config, shape, num_classes).model, Batch(
        jax.ShapeDtypeStruct((2, *shape), jnp.float32), cond
    )
