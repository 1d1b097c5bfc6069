"""What the introspective models share: passes through both nets, the squared error, a plain VAE, and
what is to be watched in training."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import distributions, noise
from jaxvae.abilities import HasKLPerDim, HasPenalty, LatentDistribution
from jaxvae.errors import UserError, check_number, concrete
from jaxvae.models.vae import vae
from jaxvae.types import Array, Aux, Batch, Loss, Model, Net, Objective, Params, Posterior, State

Error = Callable[[Array, Array], Array]  # (x, x_hat), both [B, ...] -> [B]


def squared_error(x: Array, x_hat: Array) -> Array:
    """Returns sum_i (x_i - x_hat_i)^2 [B]: -log N(x; x_hat, 1/2) without its constant."""
    return jnp.sum(jnp.square(x - x_hat), axis=tuple(range(1, x.ndim)))


class Passes:
    """Both nets inside one loss, in training mode: `E`, `D` and draws, each with a fresh key.

    A call that is given a key takes that one. BatchNorm's averages follow the order of the calls:
    `state` is the state after the last one.
    """

    def __init__(
        self,
        encoder: Net,
        decoder: Net,
        posterior: Posterior,
        params: Params,
        state: State,
        rng: Array,
        cond: Array | None,
    ):
        self.nets, self.build = {"encoder": encoder, "decoder": decoder}, posterior.build
        self.params, self.state, self.rng, self.cond = params, state, rng, cond

    def key(self) -> Array:
        """Returns a key that nothing else has."""
        self.rng, key = jax.random.split(self.rng)
        return key

    def _apply(self, name: str, x: Array, rng: Array | None) -> Array:
        rng = self.key() if rng is None else rng
        y, new = self.nets[name].apply(
            self.params[name], self.state[name], x, cond=self.cond, rng=rng, train=True
        )
        self.state = {**self.state, name: new}
        return y

    def E(self, x: Array, rng: Array | None = None) -> LatentDistribution:
        """Returns q(z|x)."""
        return self.build(self._apply("encoder", x, rng))

    def D(self, z: Array, rng: Array | None = None) -> Array:
        """Returns the decoder's mean x_hat [B, ...]."""
        return self._apply("decoder", z, rng)

    def draw(self, q: LatentDistribution, rng: Array | None = None) -> Array:
        """Returns z ~ q [B, D]."""
        return distributions.sample(self.key() if rng is None else rng, q)

    def prior(self, size: int, latent_dim: int, rng: Array | None = None) -> Array:
        """Returns n ~ N(0, I) [size, D]."""
        return noise.normal(self.key() if rng is None else rng, (size, latent_dim))


def weighted_kl(q: LatentDistribution, weight: float | Array) -> Array:
    """Returns sum_j w_j KL_j(q || N(0, 1)) [B]; one number weighs all dimensions j."""
    if jnp.ndim(weight) == 0:
        return weight * distributions.kl(q)
    assert isinstance(q, HasKLPerDim)  # as `check_kl_weights` has seen
    return q.kl_per_dim() @ jnp.asarray(weight)


def errors_of(error: Error, x: Array, x_hat: Array, value: Array) -> dict[str, Array]:
    """Returns what is logged of a reconstruction: its squared error and, where the loss pays
    another, that `value`, as `error`; each [B]."""
    squared = {"squared_error": squared_error(x, x_hat)}
    return squared if error is squared_error else {**squared, "error": value}


def check_weights(**weights: float | None) -> None:
    """Raises `UserError` for a concrete weight below zero."""
    for name, value in weights.items():
        check_number(name, value, least=0.0)


def check_pays_kl(q_of: Posterior, latent_dim: int, who: str) -> None:
    """Raises `UserError` for a posterior whose convention pays other than the KL of what is sampled
    (`HasPenalty`), which the losses of `who`, in words, have no place for."""
    outputs = jax.ShapeDtypeStruct((1, q_of.size(latent_dim)), jnp.float32)
    if isinstance(jax.eval_shape(q_of.build, outputs), HasPenalty):
        raise UserError(
            f"{who} pay the KL of what is sampled, and this posterior's convention pays something "
            "else: use posterior='ar1' or 'normal' with them, or this one with vae."
        )


def check_kl_weights(q_of: Posterior, latent_dim: int, **weights: float | Array) -> None:
    """Raises `UserError` for weights of a KL that are neither a number nor one for each latent
    dimension, a concrete one below zero, and a posterior whose KL is no sum over dimensions."""
    for name, value in weights.items():
        if np.ndim(value) == 0:
            check_number(name, value, least=0.0)
            continue
        if np.shape(value) != (latent_dim,):
            raise UserError(
                f"{name} must be a number or one for each of the {latent_dim} latent dimensions, "
                f"not of shape {np.shape(value)}."
            )
        check_number(f"the least {name}", np.min(value) if concrete(value) else 0.0, least=0.0)
        outputs = jax.ShapeDtypeStruct((1, q_of.size(latent_dim)), jnp.float32)
        if not isinstance(jax.eval_shape(q_of.build, outputs), HasKLPerDim):
            raise UserError(
                f"{name} weighs each latent dimension, and this posterior's KL is no sum over them: "
                "give one number, or use posterior='normal'."
            )


def plain_vae(
    encoder: Net,
    decoder: Net,
    *,
    latent_dim: int,
    beta_rec: float = 1.0,
    beta_kl: float | Array = 1.0,
    posterior: str | Posterior = "normal",
    error: Error = squared_error,
) -> Model:
    """Returns the VAE in the introspective papers' scale.

    It is the phase before their models, and their baseline in two dimensions.

        loss(x) = beta_rec |x - D(z)|^2 + beta_kl KL(q(z|x) || N(0, I)),   z ~ q(z|x)

    The squared error is that of a Gaussian likelihood with variance 1/2, which is what `decode`
    returns: `terms` and `elbo` are in nats, with its constant, whatever error is trained on. Source:
    Daniel & Tamar 2021, section 5.

    Args:
        encoder: x [B, ...] -> [B, posterior.size(latent_dim)].
        decoder: z [B, D] -> the mean, of x's shape.
        latent_dim: D.
        beta_rec, beta_kl: weights, >= 0; they may be traced. beta_kl may be one for each latent
            dimension [D].
        posterior: "normal", "ar1", or a `Posterior` whose loss is its KL.
        error: (x, x_hat) -> [B], what stands in place of the squared error.

    Raises:
        UserError: for weights below zero, a posterior with a `penalty` ("ar1-readme",
            "ar1-released"), and as `vae`.
    """
    check_weights(beta_rec=beta_rec)
    check_kl_weights(distributions.posterior(posterior), latent_dim, beta_kl=beta_kl)
    gaussian = vae(
        encoder,
        decoder,
        latent_dim=latent_dim,
        posterior=posterior,
        likelihood="gaussian",
        gamma=0.5,
    )
    q_of = distributions.posterior(posterior)
    check_pays_kl(q_of, latent_dim, "introspective models")

    def loss(params, state, rng, batch: Batch, step, carry):
        net = Passes(encoder, decoder, q_of, params, state, rng, batch.cond)
        q = net.E(batch.x)
        x_hat = net.D(net.draw(q))
        paid = error(batch.x, x_hat)
        metrics = errors_of(error, batch.x, x_hat, paid)
        metrics |= {"kl": distributions.kl(q), **distributions.metrics(q)}
        return beta_rec * paid + weighted_kl(q, beta_kl), Aux(net.state, metrics)

    return gaussian._replace(objectives=(Objective(("encoder", "decoder"), loss),))


def in_turn(
    base: Model,
    encoder_loss: Loss,
    decoder_loss: Loss,
    *,
    coupled: bool = False,
    watch: tuple[Callable[[Sequence[Mapping[str, float]]], str | None], ...] = (),
) -> Model:
    """Returns `base` with two objectives, the encoder's and then the decoder's, which both send data
    and fakes through the same nets: it is evaluated with re-estimated statistics.

    Args:
        coupled: whether the encoder's loss is one of the whole batch.
        watch: of the log.
    """
    objectives = (
        Objective(("encoder",), encoder_loss, coupled=coupled, name="encoder_loss"),
        Objective(("decoder",), decoder_loss, name="decoder_loss"),
    )
    return base._replace(objectives=objectives, stats="reestimated", watch=watch)


# ---- what a log says -----------------------------------------------------------------------------

PATIENCE = 20  # lines of the log; what they all show lasts
MARGIN = 1.0  # nats that the KL of fakes may fall below that of data, as the released code allows
STUCK = (1e-8, 0.99)  # outside, exp(alpha s ELBO) of fakes says nothing any more


def fakes_fall_below(rows: Sequence[Mapping[str, float]]) -> str | None:
    """Returns a warning if the encoder has long found fakes likelier than data, else None.

    That is kl_rec or kl_fake below kl - `MARGIN` in each of the last `PATIENCE` rows, but for those
    in which the exponential is near 1, of which `exp_elbo_stuck` speaks. Source: released code
    (`exit_on_negative_diff` ends such a run), its README, and issue 11 of its repository.
    """

    def below(row: Mapping[str, float]) -> bool:
        weak = min(row["exp_elbo_rec"], row["exp_elbo_fake"]) > STUCK[1]
        return not weak and min(row["kl_rec"], row["kl_fake"]) < row["kl"] - MARGIN

    if not _lasts(rows, below):
        return None
    last = rows[-1]
    return (
        f"in each of the last {PATIENCE} lines of the log the KL of fakes is below that of data (now "
        f"{last['kl_rec']:.3g} nats for reconstructions and {last['kl_fake']:.3g} for samples, "
        f"against {last['kl']:.3g}), where it should be at least as large: the encoder does not "
        "tell them apart, and samples will be poor. The authors lower beta_neg (from 256 to 128 or "
        "less), and keep beta_kl at least as large as beta_rec."
    )


def exp_elbo_stuck(rows: Sequence[Mapping[str, float]]) -> str | None:
    """Returns a warning if the exponential of the fakes' ELBO has long been stuck at an end, else
    None.

    Its gradient is alpha s beta_neg exp(alpha s ELBO): it vanishes with the exponential (`STUCK`),
    and cannot raise a KL that leaves it at 1. All of the last `PATIENCE` rows count.
    """
    low, high = STUCK

    def values(row: Mapping[str, float]) -> tuple[float, float]:
        return row["exp_elbo_rec"], row["exp_elbo_fake"]

    if _lasts(rows, lambda row: max(values(row)) < low):
        end, what, advice = "0", "the encoder learns nothing from fakes any more", "Lower beta_neg"
    elif _lasts(rows, lambda row: min(values(row)) > high):
        end, what, advice = "1", "the encoder does not push fakes away", "Raise beta_neg"
    else:
        return None
    rec, fake = values(rows[-1])
    return (
        f"exp_elbo is stuck at {end} in each of the last {PATIENCE} lines of the log (now {rec:.2g} "
        f"for reconstructions and {fake:.2g} for samples): {what}. {advice}; the authors choose it of "
        "the order of latent_dim."
    )


def _lasts(
    rows: Sequence[Mapping[str, float]], holds: Callable[[Mapping[str, float]], bool]
) -> bool:
    return len(rows) >= PATIENCE and all(map(holds, rows[-PATIENCE:]))
