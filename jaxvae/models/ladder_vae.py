"""The ladder VAE: layers of latents, whose posterior corrects the prior that comes from above.

    p(x, z) = p(x|z_1) p(z_1|z_2) ... p(z_{L-1}|z_L) N(z_L; 0, I)
    q(z|x)  = q(z_L|x) q(z_{L-1}|z_L, x) ... q(z_1|z_2, x)
    loss(x) = -log p(x|z_1) + beta sum_i KL_i,   KL_i = KL(q(z_i|z_{i+1}, x) || p(z_i|z_{i+1})),   z ~ q(z|x)

The encoder passes x once, from the bottom up, and gives a Gaussian for each layer, N(m_i, s_i^2). The
nets of p go from the top down, the same in inference as in generation, and give p(z_i|z_{i+1}) =
N(mu_i, sigma_i^2). Below the top both are merged by their precisions, as if multiplied:

    q(z_i|z_{i+1}, x) = N(v (m_i / s_i^2 + mu_i / sigma_i^2), v),   v = 1 / (1 / s_i^2 + 1 / sigma_i^2)
    q(z_L|x) = N(m_L, s_L^2)

What the model hands out as z are the noises e of all layers, side by side from the bottom, whose prior
is N(0, I), so that what decodes, interpolates or weighs a VAE's z takes them:

    e_i = (z_i - mu_i) / sigma_i,   e_L = z_L
    q(e_i|z_{i+1}, x) = N(r / (1 + r) (m_i - mu_i) / sigma_i, 1 / (1 + r)),   r = sigma_i^2 / s_i^2

With z_{i+1} given, e_i is an affine function of z_i: KLs and ratios of densities are those of z.

Source: Sonderby et al. 2016 (arXiv 1602.02282), section 2: the ladder variational autoencoder, and
the warm-up of beta; its batch normalisation is the nets' affair.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxvae import distributions, objectives
from jaxvae.distributions import Normal
from jaxvae.errors import UserError, check_count, check_number, concrete
from jaxvae.models import likelihoods
from jaxvae.models.likelihoods import check_float
from jaxvae.models.vae import use_batch, vae
from jaxvae.objectives import Weight
from jaxvae.types import Array, Aux, Batch, Likelihood, Model, Net, Objective, Terms, Tree

Choose = Callable[[int, Normal | None], Array]  # (layer, its prior, or None at the top) -> e_i


def ladder_vae(
    encoder: Net,
    priors: Sequence[Net],
    decoder: Net,
    *,
    latent_dims: Sequence[int],
    likelihood: Literal["bernoulli", "gaussian"] | Likelihood = "bernoulli",
    gamma: float | Literal["learned"] = 1.0,
    gamma_floor: float = 1e-8,
    beta: Weight = 1.0,
    free_bits: float = 0.0,
) -> Model:
    """Returns a ladder VAE; with one layer it is `vae`. `nets.ladder` makes nets for it.

    Args:
        encoder: x [B, ...] -> [B, 2 D], D = D_1 + ... + D_L: the means m_1, ..., m_L, then the
            log-variances; takes `cond` if batches have one, as the other nets do.
        priors: the nets of p(z_i|z_{i+1}), i = 1, ..., L - 1: z_{i+1} [B, D_{i+1}] -> [B, 2 D_i],
            mean and log-variance.
        decoder: z_1 [B, D_1] -> x's shape.
        latent_dims: D_1, ..., D_L, from the bottom.
        likelihood, gamma, gamma_floor, beta: as in `vae`; the paper raises beta from 0
            (`objectives.linear_warmup`), or the upper layers may never be used.
        free_bits: nats for each dimension of each layer that cost nothing in the loss.

    Returns:
        A `Model` whose z are noises [B, D] (see the module); the groups "encoder", and "decoder" with
        all that goes top-down. `encode` gives a `LadderPosterior`, which draws and has a density and
        a mean, but no KL in closed form. Metrics: `loss`, `rec`, `kl`, `kl_1`, ..., `kl_L` (at one
        draw of the layers above), `elbo` in nats, `beta` where it is a schedule, and those of the
        likelihood.

    Raises:
        UserError: for layers without nets or nets without layers, and as `vae`; when initialised, for
            a net whose output has another shape.
    """
    top_down = _TopDown(tuple(priors), decoder, check_layers(latent_dims, priors))
    dims = top_down.dims
    check_number("free_bits", free_bits, least=0.0)
    free = not (concrete(free_bits) and free_bits == 0)
    options: dict[str, Any] = {"gamma": gamma, "gamma_floor": gamma_floor}
    p_of = likelihoods.likelihood(likelihood, **options)
    base = vae(
        encoder, top_down.net(), latent_dim=sum(dims), likelihood=likelihood, beta=beta, **options
    )

    def passed(params, state, rng, batch: Batch, train: bool, drops: bool = False):
        """Returns rec [B], q(e_i|z_{i+1}, x) of each layer, and the state; `drops`: with dropout."""
        rng_z, rng_up, rng_down = jax.random.split(rng, 3)
        if not drops:
            rng_up = rng_down = None
        x, cond = batch
        output, of_encoder = encoder.apply(
            params["encoder"], state["encoder"], x, cond=cond, rng=rng_up, train=train
        )
        up, q, keys = layers_of(output, dims), {}, jax.random.split(rng_z, len(dims))

        def draw(i: int, prior: Normal | None) -> Array:
            q[i] = merged(up[i], prior)
            return q[i].sample(keys[i])

        x_hat, of_decoder = top_down.apply(
            params["decoder"], state["decoder"], draw, cond, rng_down, train
        )
        rec = -distributions.log_prob(p_of.build(params.get("likelihood"), x_hat), x)
        state = {**state, "encoder": of_encoder, "decoder": of_decoder}
        return rec, [q[i] for i in range(len(dims))], state

    def loss(params, state, rng, batch: Batch, step, carry):
        check_float(batch.x)
        rec, q, state = passed(params, state, rng, batch, train=True, drops=True)
        kl, by_layer = _kls(q)
        paid = sum(objectives.free_bits_kl(each, free_bits) for each in q) if free else kl
        weight = objectives.weight_at(beta, step)
        metrics = {"rec": rec, "kl": kl, "elbo": objectives.elbo(Terms(rec, kl)), **by_layer}
        if callable(beta):
            metrics["beta"] = weight
        metrics |= likelihoods.report(p_of, params)
        return objectives.beta_elbo_loss(rec, jnp.asarray(paid), weight), Aux(state, metrics)

    def encode(params, state, x, cond=None, *, stats="running"):
        check_float(x)
        train = use_batch(stats)
        output, _ = encoder.apply(params["encoder"], state["encoder"], x, cond=cond, train=train)
        nets = params["decoder"], state["decoder"]
        down = jax.tree_util.Partial(top_down.at_train if train else top_down.at_rest, *nets, cond)
        return LadderPosterior(layers_of(output, dims), down)

    def terms(params, state, rng, batch: Batch, *, stats="running"):
        rec, q, _ = passed(params, state, rng, batch, train=use_batch(stats))
        return Terms(rec, *_kls(q))

    groups = ("encoder", "decoder", *likelihoods.groups(p_of))
    objective = Objective(groups, loss)
    return base._replace(objectives=(objective,), encode=encode, terms=terms, moments=None)


class LadderPosterior(NamedTuple):
    """q(e|x) of the noises of all layers [B, D], each layer given those above it."""

    up: tuple[Normal, ...]  # N(m_i, s_i^2), [B, D_i], from the bottom
    down: Callable[[int, Array], Normal]  # (i, z_{i+1}) -> p(z_i|z_{i+1}); layers count from 0

    @property
    def mean(self) -> Array:
        """The noises [B, D] of which each is the mean given those above it."""
        return self._descend(lambda i, prior: merged(self.up[i], prior).mean)

    def sample(self, rng: Array) -> Array:
        """Returns a draw [B, D], from the top layer down."""
        keys = jax.random.split(rng, len(self.up))
        return self._descend(lambda i, prior: merged(self.up[i], prior).sample(keys[i]))

    def log_prob(self, x: Array) -> Array:
        """Returns log q(e|x) [B] of noises e [B, D], the sum over layers."""
        given = split(x, [each.mean.shape[-1] for each in self.up])
        total = []

        def density(i: int, prior: Normal | None) -> Array:
            total.append(merged(self.up[i], prior).log_prob(given[i]))
            return given[i]

        self._descend(density)
        return sum(total[1:], total[0])

    def _descend(self, choose: Choose) -> Array:
        return descend(len(self.up), self.down, choose)[1]


def merged(up: Normal, prior: Normal | None) -> Normal:
    """Returns q(e|x) of one layer: the product of N(m, s^2) and its prior N(mu, sigma^2), in units of
    the prior.

        N(r / (1 + r) (m - mu) / sigma, 1 / (1 + r)),   r = sigma^2 / s^2

    Args:
        up: N(m, s^2), [B, D_i].
        prior: p(z_i|z_{i+1}), or None for the top layer, whose posterior is `up` itself.

    Source: Sonderby et al. 2016, section 2, the precision-weighted combination.
    """
    if prior is None:
        return up
    log_r = prior.logvar - up.logvar
    scale = jnp.exp(jax.nn.log_sigmoid(log_r) - 0.5 * prior.logvar)  # no 0 times infinity
    return Normal(scale * (up.mean - prior.mean), -jax.nn.softplus(log_r))


def descend(
    layers: int, down: Callable[[int, Array], Normal], choose: Choose
) -> tuple[Array, Array]:
    """Returns z_1 [B, D_1], and the noises [B, D] that `choose` chose, from the top layer down."""
    z = choose(layers - 1, None)
    noises = [z]
    for i in reversed(range(layers - 1)):
        prior = down(i, z)
        noises.insert(0, choose(i, prior))
        z = prior.mean + jnp.exp(0.5 * prior.logvar) * noises[0]
    return z, jnp.concatenate(noises, axis=-1)


def split(x: Array, dims: Sequence[int]) -> list[Array]:
    """Returns the parts [B, D_i] of x [B, D]."""
    ends = [sum(dims[: i + 1]) for i in range(len(dims))]
    return [x[:, end - dim : end] for end, dim in zip(ends, dims, strict=True)]


def layers_of(output: Array, dims: Sequence[int]) -> tuple[Normal, ...]:
    """Returns the Gaussian of each layer from an encoder's output [B, 2 D]."""
    means, logvars = (split(half, dims) for half in jnp.split(output, 2, axis=-1))
    return tuple(Normal(*pair) for pair in zip(means, logvars, strict=True))


def check_layers(latent_dims: Sequence[int], priors: Sequence[Net]) -> tuple[int, ...]:
    """Returns the sizes of the layers; raises `UserError` where they and their nets do not fit."""
    dims = tuple(latent_dims)
    for dim in dims:
        check_count("a layer's latent_dim", dim)
    if not dims or len(priors) != len(dims) - 1:
        raise UserError(
            f"{len(dims)} layers of latents need {max(0, len(dims) - 1)} nets of p(z_i|z_{{i+1}}), one "
            f"for each but the top, not {len(priors)}."
        )
    return dims


def _kls(q: Sequence[Normal]) -> tuple[Array, dict[str, Array]]:
    """Returns the KL of all layers [B], and that of each by name, from the bottom."""
    by_layer = {f"kl_{i + 1}": distributions.kl(each) for i, each in enumerate(q)}
    first, *others = by_layer.values()
    return sum(others, first), by_layer


class _TopDown(NamedTuple):
    """All nets from z_L to x; their parameters are {"z_1": ..., "z_2": ..., "x": ...}."""

    priors: tuple[Net, ...]
    decoder: Net
    dims: tuple[int, ...]

    def prior(
        self, params: Tree, state: Tree, i: int, z: Array, cond: Any, rng: Any, train: bool
    ) -> tuple[Normal, Tree]:
        """Returns p(z_i|z_{i+1}), and the net's state after this pass."""
        name = f"z_{i + 1}"
        y, new = self.priors[i].apply(params[name], state[name], z, cond=cond, rng=rng, train=train)
        if y.shape != (len(z), 2 * self.dims[i]):
            raise UserError(
                f"the net of p(z_{i + 1}|z_{i + 2}) returns shape {y.shape}, but mean and log-variance "
                f"of {self.dims[i]} dimensions need [batch, {2 * self.dims[i]}]."
            )
        return Normal(*jnp.split(y, 2, axis=-1)), new

    def at_rest(self, params: Tree, state: Tree, cond: Any, i: int, z: Array) -> Normal:
        """Returns p(z_i|z_{i+1}) in evaluation."""
        return self.prior(params, state, i, z, cond, None, False)[0]

    def at_train(self, params: Tree, state: Tree, cond: Any, i: int, z: Array) -> Normal:
        """Returns p(z_i|z_{i+1}) by this batch's own statistics."""
        return self.prior(params, state, i, z, cond, None, True)[0]

    def apply(
        self, params: Tree, state: Tree, choose: Choose, cond: Any, rng: Any, train: bool
    ) -> tuple[Array, Tree]:
        """Returns the decoder's output at the noises that are chosen, and the state after this pass."""
        layers, states = len(self.dims), {}
        keys = [None] * layers if rng is None else jax.random.split(rng, layers)

        def down(i: int, z: Array) -> Normal:
            p, states[f"z_{i + 1}"] = self.prior(params, state, i, z, cond, keys[i + 1], train)
            return p

        z, _ = descend(layers, down, choose)
        x_hat, states["x"] = self.decoder.apply(
            params["x"], state["x"], z, cond=cond, rng=keys[0], train=train
        )
        return x_hat, states

    def net(self) -> Net:
        """Returns all of them as one decoder of the noises [B, D]."""

        def init(rng: Array, e: Array, cond: Array | None = None) -> tuple[Tree, Tree]:
            keys, z = jax.random.split(rng, len(self.dims)), split(e, self.dims)
            started = {"x": self.decoder.init(keys[0], z[0], cond)}
            for i, net in enumerate(self.priors):
                started[f"z_{i + 1}"] = net.init(keys[i + 1], z[i + 1], cond)
            params, state = ({name: pair[j] for name, pair in started.items()} for j in (0, 1))
            return params, state

        def apply(params, state, e, *, cond=None, rng=None, train):
            given = split(e, self.dims)
            return self.apply(params, state, lambda i, prior: given[i], cond, rng, train)

        return Net(init, apply)
