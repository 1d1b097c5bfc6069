"""Table 1 of the two-stage VAE: data, nets, losses and schedules.

Table 1 is of the InfoGAN-style net with 64 latent dimensions, Adam 1e-4 (halved every `period`
epochs), no weight decay. MNIST and Fashion-MNIST take the paper's batch of 100; CIFAR-10 and CelebA
64, as the authors say of Table 1 (issue 9 of their repository). `VARIANTS` has what else the texts and the
code have, `gans` the GANs.
"""

import math
from typing import Any, Literal, NamedTuple

import optax

from experiments.two_stage import gans
from jaxvae import models, nets
from jaxvae.errors import UserError
from jaxvae.types import Model, Net

LATENT_DIM = 64
LEARNING_RATE = 1e-4
COMPONENTS = 10  # of the Gaussian mixture
WAE_LAMBDA = {
    1: 10.0,
    3: 100.0,
}  # by number of colours, as the WAE paper has them for MNIST and CelebA (section 4)


class Schedule(NamedTuple):
    """Epochs of both stages, and those after which the learning rate is halved."""

    batch_size: int
    first: int
    first_period: int
    second: int
    second_period: int


SCHEDULES = {
    "mnist": Schedule(100, 400, 150, 800, 300),
    "fashion_mnist": Schedule(100, 400, 150, 800, 300),
    "cifar10": Schedule(64, 1000, 300, 2000, 600),
    "celeb_a": Schedule(64, 400, 150, 800, 300),
}
DATA = {
    "mnist": "mnist",
    "fashion_mnist": "fashion_mnist",
    "cifar10": "cifar10",
    "celeba": "celeb_a",
}  # cell -> data set
STAGE_ONE = ("cross_entropy", "fixed_gamma", "learned_gamma", "wae_mmd", "joint")
ON_STAGE_ONE = ("gaussian", "gmm", "flow", "two_stage")  # on the latents of learned_gamma
PICKED = "two_stage_star"  # two_stage with the best of LATENT_DIMS
LATENT_DIMS = (16, 32, 64, 128)  # "a couple different values", says the paper, and not which
METHODS = (*STAGE_ONE, *ON_STAGE_ONE, PICKED, *gans.SETTINGS)


class Variant(NamedTuple):
    """What differs from Table 1; its cells are DATA/VARIANT/METHOD."""

    data: tuple[str, ...] = tuple(DATA)
    methods: tuple[str, ...] = ("learned_gamma", "two_stage")
    net: Literal["infogan", "resnet", "resnet_released", "wae"] = "infogan"
    latent_dim: int = LATENT_DIM
    second_width: int = 1024
    weight_decay: float = 0.0  # times the weights of the nets, added to their gradient
    batch_size: int | None = None  # None: that of the schedule
    schedule: Schedule | None = None  # None: that of the data


TABLE_1 = ""
VARIANTS = {
    TABLE_1: Variant(methods=METHODS),
    "decay": Variant(weight_decay=5e-4),  # as the text has it, and the code does not
    "batch_64": Variant(("mnist", "fashion_mnist"), batch_size=64),  # the code's default
    "batch_100": Variant(("cifar10", "celeba"), batch_size=100),  # the text's
    # of the paper's figures: supplement, section 6; and as the code's page has it
    "resnet": Variant(
        ("celeba",),
        net="resnet",
        second_width=2048,
        weight_decay=5e-4,
        schedule=Schedule(100, 120, 48, 300, 120),
    ),
    "resnet_released": Variant(
        ("celeba",), net="resnet_released", latent_dim=128, schedule=Schedule(64, 100, 40, 100, 40)
    ),
    # of the conference paper's Table 2, as the code's page has it
    "wae": Variant(
        ("celeba",),
        ("learned_gamma", "wae_mmd", "two_stage"),
        net="wae",
        schedule=Schedule(64, 70, 30, 70, 30),
    ),
}
OF_LATENT_DIM = {
    n: TABLE_1 if n == LATENT_DIM else f"latent_dim_{n}" for n in LATENT_DIMS
}  # the variants that `PICKED` is of; they have no cells of their own
VARIANTS |= {v: Variant((), latent_dim=n) for n, v in OF_LATENT_DIM.items() if v != TABLE_1}


def schedule(name: str, variant: str) -> Schedule:
    """Returns the schedule of a variant on data called `name` in cells."""
    chosen = VARIANTS[variant]
    found = chosen.schedule or SCHEDULES[DATA[name]]
    return found._replace(batch_size=chosen.batch_size or found.batch_size)


def length(
    epochs: int, period: int, size: int, batch_size: int, share: float, weight_decay: float = 0.0
) -> tuple[int, dict[str, Any]]:
    """Returns (steps, optimisers by parameter group): `epochs` passes over `size` examples, all
    times `share`.

    A step of Adam moves gamma's one parameter by at most the learning rate: at 1e-4 a short run
    could not bring it to its optimum. So its own learning rate is divided by the share, and it can
    go as far as in the whole schedule. Weight decay is of the nets alone, an L2 penalty: it goes
    through Adam's moments.
    """
    steps = max(1, math.floor(share * epochs * size / batch_size))
    halving = max(1, math.floor(share * period * size / batch_size))

    def adam(rate: float):
        return optax.adam(optax.exponential_decay(rate, halving, 0.5, staircase=True))

    nets_ = adam(LEARNING_RATE)
    if weight_decay:
        nets_ = optax.chain(optax.add_decayed_weights(weight_decay), nets_)
    gamma = adam(LEARNING_RATE / share)
    stage = optax.multi_transform({"nets": nets_, "likelihood": gamma}, _kinds)
    single = {"encoder": nets_, "decoder": nets_, "flow": nets_, "likelihood": gamma}
    return steps, {**single, "first": stage, "second": stage}


def _kinds(params: dict[str, Any]) -> dict[str, str]:
    return {name: "likelihood" if name == "likelihood" else "nets" for name in params}


def pair_of(
    net: str, shape: tuple[int, ...], latent_dim: int, output: str, shrink: int
) -> tuple[Net, Net]:
    """Returns encoder and decoder of a variant's net."""
    options: dict[str, Any] = {"latent_dim": latent_dim, "output": output}
    if net.startswith("resnet"):
        convention = "released" if net == "resnet_released" else "paper"
        widths = {"base": max(1, 32 // shrink), "dense": max(1, 512 // shrink)}
        return nets.resnet(shape, convention=convention, **widths, **options)
    return {"infogan": nets.infogan, "wae": nets.wae}[net](shape, shrink=shrink, **options)


def stage_one(
    method: str,
    shape: tuple[int, ...],
    *,
    shrink: int = 1,
    latent_dim: int = LATENT_DIM,
    net: str = "infogan",
) -> Model:
    """Returns the first stage of a method: they differ in the decoder's last layer and in the
    loss."""
    output = "logits" if method == "cross_entropy" else "sigmoid"
    pair = pair_of(net, shape, latent_dim, output, shrink)
    if method == "cross_entropy":
        return models.vae(*pair, latent_dim=latent_dim)
    if method == "wae_mmd":  # squared error, no KL
        weight = WAE_LAMBDA.get(shape[-1], WAE_LAMBDA[3])
        return models.info_vae(
            *pair,
            latent_dim=latent_dim,
            likelihood="gaussian",
            gamma=0.5,
            alpha=1.0,
            lambda_=weight,
            kernel="imq",
        )
    if method == "joint":
        second = nets.second_stage(latent_dim, width=max(1024 // shrink, 1))
        return models.joint_two_stage(pair, second, latent_dim=latent_dim)
    if method not in ("fixed_gamma", "learned_gamma"):
        raise UserError(f"{method} is not a first stage: choose from {', '.join(STAGE_ONE)}.")
    gamma: Any = 1.0 if method == "fixed_gamma" else "learned"
    return models.vae(*pair, latent_dim=latent_dim, likelihood="gaussian", gamma=gamma)


def stage_two(latent_dim: int = LATENT_DIM, *, width: int = 1024) -> Model:
    """Returns the second stage: three layers of 1,024 each way, learned gamma."""
    pair = nets.second_stage(latent_dim, width=width)
    return models.vae(*pair, latent_dim=latent_dim, likelihood="gaussian", gamma="learned")


def flow_prior(latent_dim: int = LATENT_DIM, *, width: int = 512) -> Model:
    """Returns a flow of latents: eight couplings with two layers of 512, 2.9 M parameters with 64
    dimensions, where the second stage has 4.5 M."""
    net = nets.coupling(latent_dim, hidden=(width, width))
    return models.flow(net, latent_dim, couplings=8, alpha=None)


ON_LATENTS = {
    "flow": flow_prior,
    "two_stage": stage_two,
}  # those of `ON_STAGE_ONE` that are trained
