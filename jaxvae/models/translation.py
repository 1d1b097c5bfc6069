"""Image translation without labels: a Soft-IntroVAE with two encoders, of the content and of the class, whose decoder lets the
class set mean and scale of its feature maps.

    z = (z_content, z_class),   q(z|x) = q_content(z_content|x) q_class(z_class|x)
    ELBO(x) = -(b_rec L(x, D(z)) + b_content KL(q_content || N(0, I)) + b_class KL(q_class || N(0, I)))

and the losses of `soft_intro_vae` with it, beta_kl or beta_neg in place of the b of both KLs. Nothing says which latent is
which but the nets: the class has one number for a whole feature map, the content has places. A translation is the decoder's
image of the content of one image and the class of another (`verbs.translate`).

L is the squared error, as the paper has it for grey images, or a perceptual one (`metrics.perceptual`).

Source: Daniel & Tamar 2021 (arXiv 2012.13253), section 6.4 and appendix 9.3; no code of it was released.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxvae.distributions import Normal
from jaxvae.errors import UserError, check_count, check_number
from jaxvae.models.introspective import Error, plain_vae, squared_error
from jaxvae.models.soft_intro_vae import soft_intro_vae
from jaxvae.types import Array, Model, Net, Posterior, Tree

NAMES = ("content", "class")  # of the encoders among the parameters of the group "encoder"


class Parts(NamedTuple):
    """q(z|x) of two latents, one beside the other: z [B, D] has the content first."""

    content: Normal
    of_class: Normal

    @property
    def parts(self) -> tuple[Normal, Normal]:
        """The distributions of content and class."""
        return self.content, self.of_class

    @property
    def joint(self) -> Normal:
        """Both as one distribution of z [B, D]."""
        means, logvars = zip(*self, strict=True)
        return Normal(jnp.concatenate(means, axis=-1), jnp.concatenate(logvars, axis=-1))

    @property
    def mean(self) -> Array:
        """The mean [B, D]."""
        return self.joint.mean

    @property
    def variance(self) -> Array:
        """The variances [B, D]."""
        return self.joint.variance

    def sample(self, rng: Array) -> Array:
        """Returns a draw [B, D]."""
        return self.joint.sample(rng)

    def log_prob(self, x: Array) -> Array:
        """Returns log q(z|x) [B], in nats."""
        return self.joint.log_prob(x)

    def kl_per_dim(self) -> Array:
        """Returns the KL of each dimension [B, D], in nats."""
        return self.joint.kl_per_dim()

    def kl(self) -> Array:
        """Returns KL(q || N(0, I)) [B] of both, in nats."""
        return self.content.kl() + self.of_class.kl()

    def metrics(self) -> dict[str, Array]:
        """Returns the KL of each, `kl_content` and `kl_class`, [B], in nats."""
        return {"kl_content": self.content.kl(), "kl_class": self.of_class.kl()}


def parts(content_dim: int) -> Posterior:
    """Returns the posterior of two encoders' outputs, one beside the other: mean and log-variance of the
    content, `content_dim` numbers each, then those of the class."""

    def build(output: Array) -> Parts:
        halves = output[:, : 2 * content_dim], output[:, 2 * content_dim :]
        return Parts(*(Normal(*jnp.split(half, 2, axis=-1)) for half in halves))

    return Posterior(size=lambda latent_dim: 2 * latent_dim, build=build)


def side_by_side(content: Net, of_class: Net, dims: tuple[int, int]) -> Net:
    """Returns two encoders as one `Net`, whose output is theirs, one beside the other.

    Parameters and state are {"content": ..., "class": ...}; each has a key of its own.

    Args:
        content, of_class: x [B, ...] -> [B, 2 D] with the D of each in `dims`.

    Raises:
        UserError: when applied, for an encoder of another output.
    """
    nets = dict(zip(NAMES, (content, of_class), strict=True))

    def both(run: Any, rng: Array | None) -> tuple[Array, Tree]:
        keys = (None, None) if rng is None else jax.random.split(rng)
        found = {name: run(name, key) for name, key in zip(nets, keys, strict=True)}
        for (name, (y, _)), dim in zip(found.items(), dims, strict=True):
            if y.shape[1:] != (2 * dim,):
                raise UserError(
                    f"the {name} encoder returns shape {y.shape}, but mean and log-variance of {dim} "
                    f"dimensions need [batch, {2 * dim}]: build it with {name}_dim={dim}."
                )
        output = jnp.concatenate([y for y, _ in found.values()], axis=-1)
        return output, {name: state for name, (_, state) in found.items()}

    def init(rng: Array, x: Array, cond: Array | None = None) -> tuple[Tree, Tree]:
        keys = jax.random.split(rng)
        started = {
            name: net.init(key, x, cond)
            for (name, net), key in zip(nets.items(), keys, strict=True)
        }
        params, state = ({name: pair[i] for name, pair in started.items()} for i in (0, 1))
        return params, state

    def apply(params, state, x, *, cond=None, rng=None, train):
        def run(name, key):
            net = nets[name]
            return net.apply(params[name], state[name], x, cond=cond, rng=key, train=train)

        return both(run, rng)

    def moments(params, state, x, *, cond=None):
        def run(name, key):
            seen = nets[name].moments
            assert seen is not None  # without it there is no `moments`
            return seen(params[name], state[name], x, cond=cond)

        return both(run, None)

    known = all(net.moments is not None for net in nets.values())
    return Net(init, apply, moments if known else None)


def translation(
    content: Net,
    of_class: Net,
    decoder: Net,
    *,
    content_dim: int,
    class_dim: int,
    beta_rec: float = 1.0,
    beta_kl_content: float = 1.0,
    beta_kl_class: float = 1.0,
    beta_neg_content: float = 2048.0,
    beta_neg_class: float = 1024.0,
    error: Error = squared_error,
    **options: Any,
) -> Model:
    """Returns the Soft-IntroVAE of two encoders: "encoder_loss", then "decoder_loss".

    The paper's weights (beta_rec; KL; neg of content and class) are 0.5; 1; 2048, 1024 for Cars3D with a
    perceptual error and 1; 0.5; 2048, 1024 for KTH with the squared one. It prints the last as a beta_kl
    of the class, which also has 1 or 0.5.

    Args:
        content, of_class: x [B, ...] -> [B, 2 content_dim] and [B, 2 class_dim], mean and log-variance.
        decoder: z [B, content_dim + class_dim], the content first -> x's shape.
        content_dim, class_dim: sizes of the latents.
        beta_rec, beta_kl_content, beta_kl_class, beta_neg_content, beta_neg_class: weights, >= 0; they
            may be traced.
        error: (x, x_hat) -> [B].
        options: s, alpha, gamma, gamma_r and convention of `soft_intro_vae`.

    Returns:
        A `Model` as `soft_intro_vae`'s, with the metrics `kl_content` and `kl_class` beside, whose
        posterior is `Parts`.

    Raises:
        UserError: as `soft_intro_vae`; when initialised, for nets that do not fit.
    """
    dims = (content_dim, class_dim)
    return soft_intro_vae(
        side_by_side(content, of_class, dims),
        decoder,
        latent_dim=_latent_dim(dims),
        posterior=parts(content_dim),
        beta_rec=beta_rec,
        beta_kl=_weights("beta_kl", (beta_kl_content, beta_kl_class), dims),
        beta_neg=_weights("beta_neg", (beta_neg_content, beta_neg_class), dims),
        error=error,
        **options,
    )


def plain_translation(
    content: Net,
    of_class: Net,
    decoder: Net,
    *,
    content_dim: int,
    class_dim: int,
    beta_rec: float = 1.0,
    beta_kl_content: float = 1.0,
    beta_kl_class: float = 1.0,
    error: Error = squared_error,
) -> Model:
    """Returns the plain VAE of two encoders: the phase before `translation`, and its baseline.

        loss(x) = beta_rec L(x, D(z)) + beta_kl_content KL(q_content) + beta_kl_class KL(q_class)

    Args:
        as for `translation`.

    Raises:
        UserError: as `plain_vae`; when initialised, for nets that do not fit.
    """
    dims = (content_dim, class_dim)
    return plain_vae(
        side_by_side(content, of_class, dims),
        decoder,
        latent_dim=_latent_dim(dims),
        posterior=parts(content_dim),
        beta_rec=beta_rec,
        beta_kl=_weights("beta_kl", (beta_kl_content, beta_kl_class), dims),
        error=error,
    )


def _latent_dim(dims: tuple[int, int]) -> int:
    for name, dim in zip(NAMES, dims, strict=True):
        check_count(f"{name}_dim", dim)
    return sum(dims)


def _weights(what: str, weights: tuple[Any, Any], dims: tuple[int, int]) -> Array:
    """Returns one weight for each latent dimension [D], of one for the content and one for the class."""
    for name, weight in zip(NAMES, weights, strict=True):
        check_number(f"{what}_{name}", weight, least=0.0)
    return jnp.concatenate(
        [jnp.full(dim, weight, jnp.float32) for weight, dim in zip(weights, dims, strict=True)]
    )
