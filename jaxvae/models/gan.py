"""Generative adversarial networks: a generator and a discriminator that learn in turn.

    x = G(z),   z ~ p(z);   l = D(x), one number for each example

The table has what is minimised, of data x, fakes x' = G(z) and their outputs l = D(x), l' = D(x');
softplus(-l) = -log sigmoid(l) is the cross-entropy of "real".

    | loss    | discriminator                                     | generator      |
    | ------- | ------------------------------------------------- | -------------- |
    | ns      | softplus(-l) + softplus(l')                       | softplus(-l')  |
    | mm      | softplus(-l) + softplus(l')                       | -softplus(l')  |
    | lsgan   | 1/2 (l - 1)^2 + 1/2 l'^2                          | 1/2 (l' - 1)^2 |
    | wgan    | l' - l                                            | -l'            |
    | wgan_gp | l' - l + penalty (|grad D(x + u (x' - x))| - 1)^2 | -l'            |
    | dragan  | that of ns + penalty                              | softplus(-l')  |
    |         |     (|grad sigmoid(D(x + u (x'' - x)))| - 1)^2    |                |

with u ~ U[0, 1), one for each example, and x'' = x + s/2 v, where s is the standard deviation of all
numbers of the batch and v ~ U[0, 1), one for each number.

Sources: Goodfellow et al. 2014 (arXiv 1406.2661), Eq. 1 (mm) and section 3 (ns); Mao et al. 2017
(arXiv 1611.04076), Eq. 9 (lsgan); Arjovsky et al. 2017 (arXiv 1701.07875), Algorithm 1 (wgan);
Gulrajani et al. 2017 (arXiv 1704.00028), Eq. 3 (wgan_gp); Kodali et al. 2017 (arXiv 1705.07215),
(dragan; the points x'' are those of the study's code); Lucic et al. 2018 (arXiv 1711.10337), Table
1, and its released code.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvae import noise, parallel
from jaxvae.errors import UserError, check_count, check_number, unknown
from jaxvae.models.likelihoods import check_float
from jaxvae.models.vae import use_batch
from jaxvae.nets import has_averages
from jaxvae.types import Array, Aux, Batch, Loss, Model, Net, Objective, Params, State, Tree


class Generated(NamedTuple):
    """What a generator makes of z: all mass at one x, which has no density."""

    mean: Array  # [B, ...]

    def sample(self, rng: Array) -> Array:
        """Returns the mean, the same at every draw."""
        return self.mean

    def log_prob(self, x: Array) -> Array:
        """Raises `UserError`."""
        raise UserError("a generator gives no density: a GAN has no likelihood to evaluate.")


class Losses(NamedTuple):
    """What is minimised, per example, of the discriminator's outputs [B]."""

    real: Callable[[Array], Array]
    fake: Callable[[Array], Array]
    generator: Callable[[Array], Array]


def _is_real(output: Array) -> Array:
    return jax.nn.softplus(-output)


def _is_one(output: Array) -> Array:
    return 0.5 * jnp.square(output - 1.0)


def _is_zero(output: Array) -> Array:
    return 0.5 * jnp.square(output)


LOSSES = {
    "ns": Losses(_is_real, jax.nn.softplus, _is_real),
    "mm": Losses(_is_real, jax.nn.softplus, lambda output: -jax.nn.softplus(output)),
    "lsgan": Losses(_is_one, _is_zero, _is_one),
    "wgan": Losses(jnp.negative, jnp.positive, jnp.negative),
    "wgan_gp": Losses(jnp.negative, jnp.positive, jnp.negative),
    "dragan": Losses(_is_real, jax.nn.softplus, _is_real),
}
PENALISED = ("wgan_gp", "dragan")
PRIORS: dict[str, Callable[[Array, tuple[int, int]], Array]] = {
    "normal": noise.normal,
    "uniform": lambda rng, shape: 2.0 * noise.uniform(rng, shape) - 1.0,
}
NETS: tuple[str, ...] = ("generator", "discriminator")
ROOT = 1e-4  # under the released penalty's square root


def gan(
    generator: Net,
    discriminator: Net,
    *,
    latent_dim: int,
    loss: Literal["ns", "mm", "lsgan", "wgan", "wgan_gp", "dragan"] = "ns",
    convention: Literal["paper", "released"] = "paper",
    penalty: float = 10.0,
    prior: Literal["normal", "uniform"] = "normal",
    first: Literal["generator", "discriminator"] = "discriminator",
    every: int = 1,
    same_noise: bool = False,
) -> Model:
    """Returns a GAN: two objectives, which move the groups "generator" and "discriminator".

    The losses are in the module's table. `convention="released"` is that of the GAN study's code:
    lsgan has sigmoid(l) in place of l, and the penalty sqrt(1e-4 + |grad|^2) in place of |grad|.

    Each loss passes its nets in training mode, in this order, and BatchNorm's averages follow it:
    the discriminator's passes G(z), D(x), D(G(z)) and, with a penalty, D at the interpolates; the
    generator's passes G(z), D(G(z)). Data and fakes are batches of their own, each with its own
    moments, and every pass has dropout of its own.

    The report's GAN is `first="generator"`; the study's are `prior="uniform"`,
    `convention="released"`, `same_noise=True` but for wgan_gp, `every=5` for wgan and wgan_gp.
    wgan needs a Lipschitz bound, which is part of the optimiser: `clip_weights`.

    Args:
        generator: z [B, D] -> x [B, ...]; takes `cond` if batches have one.
        discriminator: x [B, ...] -> [B], logits where the loss has a sigmoid; takes `cond` if
            batches have one.
        latent_dim: D.
        loss: of the table.
        convention: what lsgan and the penalty are of.
        penalty: its weight, >= 0; of wgan_gp and dragan; it may be traced. Where gradients are
            accumulated, dragan's deviation of the data is that of each part of the batch.
        prior: of z, N(0, I) or U(-1, 1).
        first: which of the two moves first in a step.
        every: the generator moves at every so many steps, the discriminator at each: behind the
            last of these steps where the discriminator is first (the study's code: behind the
            first of them), before the first of them where the generator is.
        same_noise: whether both losses of a step have the same z; else each draws its own.

    Returns:
        A `Model` that samples and decodes (`Generated`): no density and no encoder. Its metrics are `generator_loss`,
        `discriminator_loss` and its parts `real_loss` and `fake_loss`, `penalty` (without its
        weight), and the mean outputs `on_real` and `on_fake`. Where data and fakes cannot be told
        apart, ns has 2 ln 2 and ln 2.

    Raises:
        UserError: for unknown names and hyper-parameters out of range; when initialised, for nets
            and data whose shapes do not fit, and for a penalty with BatchNorm in the discriminator.
    """
    check_names(loss=loss, convention=convention, prior=prior, first=first)
    check_count("latent_dim", latent_dim)
    check_number("penalty", penalty, least=0.0)
    check_turns(first, every, same_noise)
    released, losses = convention == "released", LOSSES[loss]
    if loss == "lsgan" and released:
        losses = Losses(*(_of_sigmoid(each) for each in losses))
    game = Game(
        {"generator": generator, "discriminator": discriminator},
        latent_dim,
        PRIORS[prior],
        losses,
        penalty if loss in PENALISED else None,
        ROOT if released else 0.0,
        first if same_noise else None,
        loss == "dragan",
    )
    ordered = in_turn(game.generator_loss, game.discriminator_loss, first, every)
    return Model(game.init, ordered, decode=game.decode, sample=game.sample, prior=game.draw)


def check_names(**names: str) -> None:
    """Raises `UserError` for a name that its option does not have."""
    known = {"loss": LOSSES, "convention": ("paper", "released"), "prior": PRIORS, "first": NETS}
    for option, name in names.items():
        if name not in known[option]:
            raise unknown(option, name, known[option])


def check_turns(first: str, every: int, same_noise: bool) -> None:
    """Raises `UserError` for turns that no two nets can take."""
    check_count("every", every)
    if same_noise and first == "generator" and every > 1:
        raise UserError(
            "a generator that moves first, and not at every step, has no noise to hand on: use "
            "same_noise=False or first='discriminator'."
        )


def in_turn(
    generator_loss: Loss, discriminator_loss: Loss, first: str, every: int
) -> tuple[Objective, ...]:
    """Returns both objectives in their order; the generator's at every so many steps, the last of
    them where it comes second."""
    phase = every - 1 if first == "discriminator" else 0
    of_generator = Objective(
        ("generator",), generator_loss, every=every, phase=phase, name="generator_loss"
    )
    judged = Objective(("discriminator",), discriminator_loss, name="discriminator_loss")
    return (of_generator, judged) if first == "generator" else (judged, of_generator)


def gradient_penalty(
    critic: Callable[[Array], tuple[Array, State]], at: Array, root: float = 0.0
) -> tuple[Array, State]:
    """Returns (sqrt(root + |grad D(at)|^2) - 1)^2 [B] and the state that the critic hands on.

    The gradient is that of the sum of all outputs, so it is each example's own where no example
    has part in the output of another: BatchNorm in training mode would couple them. Where the
    gradient is 0 and root is 0, the norm has no slope, and 0 is taken for it.

    Args:
        critic: x [B, ...] -> (outputs [B], state).
        at: where, [B, ...].
        root: >= 0; the released code has 1e-4.
    """

    def total(at: Array) -> tuple[Array, State]:
        output, state = critic(at)
        return jnp.sum(output), state

    gradient, state = jax.grad(total, has_aux=True)(at)
    square = jnp.sum(jnp.square(gradient), axis=tuple(range(1, at.ndim))) + root
    norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    return jnp.square(norm - 1.0), state


def clip_weights(limit: float) -> optax.GradientTransformation:
    """Returns the optimiser's last part that keeps every parameter in [-limit, limit], as wgan's
    critic needs: `optax.chain(optax.adam(5e-5), clip_weights(0.01))`.

    BatchNorm's scale and shift are parameters too, as in the released code. Source: Arjovsky et al.
    2017, Algorithm 1, line 7.

    Raises:
        UserError: for a limit that is not above 0.
    """
    check_number("the weights' limit", limit, above=0.0)

    def update(updates: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        if params is None:
            raise UserError("clip_weights needs the parameters: call update(grads, state, params).")

        def clip(u, p):
            return jnp.clip(p + u, -limit, limit) - p

        return jax.tree.map(clip, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _perturbed(rng: Array, x: Array) -> Array:
    """Returns x + s/2 v [B, ...], s the standard deviation of the global batch's numbers."""
    mean = parallel.mean(jnp.mean(x))
    deviation = jnp.sqrt(parallel.mean(jnp.mean(jnp.square(x - mean))))
    return x + 0.5 * deviation * noise.uniform(rng, x.shape, x.dtype)


def _of_sigmoid(loss: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda output: loss(jax.nn.sigmoid(output))


class Game(NamedTuple):
    """Both nets, and what they play for."""

    nets: dict[str, Net]
    latent_dim: int
    prior: Callable[[Array, tuple[int, int]], Array]
    losses: Losses
    penalty: float | None  # its weight; None: there is none
    root: float  # under its square root
    shares: str | None  # the net whose loss hands its z on to the other's
    near: bool  # whether the penalty is near the data, of probabilities

    def init(self, rng: Array, batch: Batch) -> tuple[Params, State]:
        """Returns parameters and state; raises `UserError` for data and nets that do not fit."""
        x, cond = batch
        check_float(x)
        z = jax.device_put(np.zeros((len(x), self.latent_dim), np.float32))
        rngs = jax.random.split(rng)
        starts = [
            self.nets[name].init(rng_net, like, cond)
            for name, rng_net, like in zip(NETS, rngs, (z, x), strict=True)
        ]
        params, state = (dict(zip(NETS, trees, strict=True)) for trees in zip(*starts, strict=True))
        fake, outputs = jax.eval_shape(
            lambda: (
                self.generate(params, state, z, cond, train=False)[0],
                self.judge(params, state, x, cond, rng)[0],
            )
        )
        if fake.shape != x.shape:
            raise UserError(
                f"the generator returns shape {fake.shape[1:]} per example, the data has "
                f"{x.shape[1:]}: build it for shape {x.shape[1:]}."
            )
        if outputs.shape != x.shape[:1]:
            raise UserError(
                "the discriminator must return one number for each example, [batch], not shape "
                f"{outputs.shape}."
            )
        if self.penalty is not None and has_averages(state["discriminator"]):
            raise UserError(
                f"{'dragan' if self.near else 'wgan_gp'}'s penalty is of single examples, which "
                "BatchNorm in the discriminator couples: use a discriminator without it, or "
                "another loss."
            )
        return params, state

    def draw(self, rng: Array, n: int) -> Array:
        """Returns z ~ p(z) [n, D]."""
        return self.prior(rng, (n, self.latent_dim))

    def _pass(self, name: str, params, state, x, cond, rng, train) -> tuple[Array, State]:
        y, new = self.nets[name].apply(
            params[name], state[name], x, cond=cond, rng=rng, train=train
        )
        return y, {**state, name: new}

    def generate(self, params, state, z, cond, rng=None, *, train) -> tuple[Array, State]:
        """Returns G(z) [B, ...], and the state after this pass."""
        return self._pass("generator", params, state, z, cond, rng, train)

    def judge(self, params, state, x, cond, rng) -> tuple[Array, State]:
        """Returns D(x) [B] in training mode, and the state after this pass."""
        return self._pass("discriminator", params, state, x, cond, rng, True)

    def generator_loss(self, params, state, rng, batch: Batch, step, carry) -> tuple[Array, Aux]:
        """Returns the generator's loss [B]."""
        rng_z, rng_g, rng_d = jax.random.split(rng, 3)
        z = self.draw(rng_z, len(batch.x)) if carry is None else carry
        fake, state = self.generate(params, state, z, batch.cond, rng_g, train=True)
        output, state = self.judge(params, state, fake, batch.cond, rng_d)
        handed_on = z if self.shares == "generator" else None
        return self.losses.generator(output), Aux(state, carry=handed_on)

    def discriminator_loss(
        self, params, state, rng, batch: Batch, step, carry
    ) -> tuple[Array, Aux]:
        """Returns the discriminator's loss [B], of each example and a fake beside it."""
        x, cond = batch
        check_float(x)
        rng_z, rng_g, rng_real, rng_fake, rng_u, rng_between = jax.random.split(rng, 6)
        z = self.draw(rng_z, len(x)) if carry is None else carry
        fake, state = self.generate(params, state, z, cond, rng_g, train=True)
        on_real, state = self.judge(params, state, x, cond, rng_real)
        on_fake, state = self.judge(params, state, fake, cond, rng_fake)
        real_loss, fake_loss = self.losses.real(on_real), self.losses.fake(on_fake)
        value, metrics = real_loss + fake_loss, {"on_real": on_real, "on_fake": on_fake}
        metrics |= {"real_loss": real_loss, "fake_loss": fake_loss}
        if self.penalty is not None:
            u = noise.uniform(rng_u, (len(x),) + (1,) * (x.ndim - 1), x.dtype)
            end = _perturbed(jax.random.fold_in(rng_u, 1), x) if self.near else fake

            def critic(at: Array, state: State = state) -> tuple[Array, State]:
                output, state = self.judge(params, state, at, cond, rng_between)
                return jax.nn.sigmoid(output) if self.near else output, state

            metrics["penalty"], state = gradient_penalty(critic, x + u * (end - x), self.root)
            value = value + self.penalty * metrics["penalty"]
        return value, Aux(state, metrics, z if self.shares == "discriminator" else None)

    def decode(self, params, state, z, cond=None, *, stats="running") -> Generated:
        """Returns all mass at G(z) [B, ...]."""
        return Generated(self.generate(params, state, z, cond, train=use_batch(stats))[0])

    def sample(self, params, state, rng, n, cond=None, *, stats="running") -> Array:
        """Returns G(z) [n, ...]."""
        return self.generate(params, state, self.draw(rng, n), cond, train=use_batch(stats))[0]
