"""The two-stage VAE: a second, small VAE learns how a trained one's latents are distributed.

    stage one   x -> q(z|x), a VAE on data, best with a learned gamma: it finds the manifold, not the density on it
    stage two   z -> q(u|z), a Gaussian VAE with a learned gamma on z ~ q(z|x), drawn anew at every visit
    sampling    u ~ N(0, I),  z ~ p(z|u),  x = E p(x|z)

Both stages are ordinary VAEs (`vae`, with `nets.second_stage` for the second), trained one after
the other with `fit`:

    first = fit(model, ...).train_state
    z = latents(model, first.params, first.state, source)
    second = fit(model_z, ..., z.source, preprocess=z.preprocess).train_state
    both = two_stage(model, model_z, latent_dim=64)
    both.sample(*join_stages(first, second), rng, n)

`prior` has the other ways to replace the prior after training: a Gaussian or a mixture of them,
fitted to the latents, or a flow.

Source: Dai & Wipf 2019 (arXiv 1903.05789), section 4.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae import distributions, noise
from jaxvae.abilities import HasFields, HasMean
from jaxvae.data.preprocess import make_preprocess
from jaxvae.data.source import Source, read_checked
from jaxvae.errors import UserError, check_count
from jaxvae.types import Array, Batch, Decode, Encode, Model, Params, State, Terms


class Latents(NamedTuple):
    """What the second stage is trained on."""

    source: Source  # q(z|x) of every example, as arrays: "x" is its mean [N, D]
    preprocess: Any  # (rng, examples) -> Batch of z ~ q(z|x)


def latents(
    model: Model,
    params: Params,
    state: State,
    source: Source,
    *,
    preprocess: Any = None,
    batch_size: int = 500,
    seed: int = 0,
) -> Latents:
    """Returns q(z|x) of all of `source`, computed once, as a source that redraws z at every visit.

    Args:
        model: any model that encodes; its posterior is a NamedTuple of arrays, one of them `mean`
            [B, D]. Each is [B], [B, 1], [B, D] or [B, ...], a row for each example, or it is the
            same for all of them and broadcasts to the mean: [], [D], [1, D].
        preprocess: that of the first stage (default: bytes to [0, 1]).
        batch_size: B, images encoded at a time.
        seed: of the preprocessing's noise, where it has any.

    Raises:
        UserError: for a model that does not encode, latents that are not finite, and a posterior's
            array that has neither form, or both ([B] with B = D: another `batch_size` tells), or
            that its `sample` cannot use.
    """
    encode_x = model.encode
    if encode_x is None:
        raise UserError(
            "the first stage does not encode, so it has no latents: use a model with an encoder."
        )
    check_count("batch_size", batch_size)
    preprocess = make_preprocess() if preprocess is None else preprocess

    @jax.jit
    def encode(params, state, rng, examples):
        batch = preprocess(rng, examples)
        rows = _by_example(encode_x(params, state, batch.x, batch.cond))
        _check_draws(rows, rng)
        return rows

    rng, parts = jax.random.key(seed), []
    for start in range(0, source.size, batch_size):  # the last batch is padded: one compilation
        index = np.minimum(np.arange(start, start + batch_size), source.size - 1)
        examples = read_checked(source, index)
        q = jax.device_get(encode(params, state, jax.random.fold_in(rng, start), examples))
        parts.append(type(q)(*(values[: source.size - start] for values in q)))
    build = type(parts[0])
    names = ["x" if name == "mean" else name for name in parts[0]._fields]
    arrays = dict(zip(names, map(np.concatenate, zip(*parts, strict=True)), strict=True))
    if not all(np.isfinite(values).all() for values in arrays.values()):
        raise UserError(
            "the first stage's posteriors are not finite: it has diverged; train it again."
        )

    def redraw(rng: Array, examples: dict[str, Array]) -> Batch:
        return Batch(
            distributions.sample(rng, build(*(jnp.asarray(examples[name]) for name in names)))
        )

    name = f"latents of {source.name}"
    return Latents(
        Source(
            name,
            source.split,
            source.size,
            arrays["x"].shape[1:],
            lambda indices: {key: values[indices] for key, values in arrays.items()},
            None,
            arrays,
        ),
        redraw,
    )


def _by_example(q: Any) -> Any:
    """Returns a posterior whose arrays have a row for each example, from one with a mean."""
    if not (isinstance(q, HasFields) and isinstance(q, HasMean) and "mean" in q._fields):
        raise UserError(f"the second stage needs a posterior with a mean, not {type(q).__name__}.")
    leaves = {name: jnp.asarray(getattr(q, name)) for name in q._fields}
    return q._replace(**{name: _rows(name, leaf, q.mean) for name, leaf in leaves.items()})


def _rows(name: str, leaf: Array, mean: Array) -> Array:
    """Returns a posterior's array with a row for each example, [B, ...]; `mean` is [B, D]."""
    size = len(mean)
    by_example = leaf.ndim > 0 and leaf.shape[0] == size
    try:
        shared = np.broadcast_shapes(leaf.shape, mean.shape) == mean.shape
    except ValueError:
        shared = False
    if by_example and shared and leaf.ndim < mean.ndim:
        raise UserError(
            f"the posterior's {name} has shape {leaf.shape}, and its mean {mean.shape}: one number "
            "for each example, or for each dimension? Use another batch_size."
        )
    if by_example:
        return leaf
    if not shared:
        raise UserError(
            f"the posterior's {name} has shape {leaf.shape}, and its mean {mean.shape}: it needs "
            f"{size} rows, or a shape that broadcasts to the mean's."
        )
    row = leaf.reshape((1,) * (mean.ndim - leaf.ndim) + leaf.shape)
    return jnp.broadcast_to(row, (size, *row.shape[1:]))


def _check_draws(q: Any, rng: Array) -> None:
    """Raises `UserError` unless a draw from `q` has the shape of its mean."""
    try:
        shape = jax.eval_shape(q.sample, rng).shape
    except (TypeError, ValueError):
        shape = None
    if shape != q.mean.shape:
        shapes = ", ".join(f"{name} {leaf.shape}" for name, leaf in zip(q._fields, q, strict=True))
        raise UserError(
            f"the first stage's posterior, {type(q).__name__} with {shapes}, does not draw z of "
            "its mean's shape: give its arrays shapes that it can use."
        )


def join_stages(first: Any, second: Any) -> tuple[Params, State]:
    """Returns (params, state) of the composed model from two trained stages.

    Each has `params` and `state`: a `TrainState`, or what `jaxvae.load` returns.
    """
    params = {"first": first.params, "second": second.params}
    return params, {"first": first.state, "second": second.state}


def two_stage(first: Model, second: Model, *, latent_dim: int, noise_on_z: bool = True) -> Model:
    """Returns the composed model of two trained stages; `join_stages` gives its params and state.

        sample     u ~ N(0, I);  z = z_hat(u) + sqrt(gamma_z) eps;  x = x_hat(z)
        encode     q(u | mean of q(z|x))
        decode     p(x | z_hat(u))
        terms      rec = -log p(x|z),  kl = log q(z|x) - log p(z|u) + KL(q(u|z) || N(0, I)),  z ~ q(z|x), u ~ q(u|z)
        log_weight log p(x|z) + log p(z|u) + log N(u; 0, I) - log q(z|x) - log q(u|z), of importance-weighted bounds

    -(rec + kl) is an unbiased estimate of a lower bound of log p(x) under u -> z -> x; the first
    stage's own bound has log N(z; 0, I) where this one has the second stage's bound of log p(z).
    `decode` and `encode` are what people look at: p(x|u) is not `decode` (z has noise), so a bound
    of log p(x) is one of `terms` and `log_weight`, with the noise on z.

    Args:
        first: of x; any model that encodes and decodes.
        second: of z, with a Gaussian likelihood.
        latent_dim: size of u.
        noise_on_z: eps as in the released code (gamma_z there is our sqrt(gamma_z)); without it z =
            z_hat(u).

    Returns:
        A `Model` without objectives: there is nothing to train jointly. A condition is the first
        stage's.

    Raises:
        UserError: for a stage that does not encode and decode; when initialised or used, for a
            second stage of another size of z or u.

    Source: Dai & Wipf 2019, section 4, steps 1 to 3; released code, two_stage_vae_model.py.
    """
    check_count("latent_dim", latent_dim)
    encode_x, decode_z = _both_ways("first", first)
    encode_z, decode_u = _both_ways("second", second)

    def init(rng: Array, batch: Batch):
        rng_first, rng_second = jax.random.split(rng)
        params, state = first.init(rng_first, batch)
        z = jax.eval_shape(lambda p, s: encode_x(p, s, batch.x, batch.cond).mean, params, state)
        try:
            params_z, state_z = second.init(rng_second, Batch(jnp.zeros(z.shape)))
            u = jax.eval_shape(
                lambda p, s: encode_z(p, s, jnp.zeros(z.shape)).mean, params_z, state_z
            )
        except (UserError, TypeError) as error:
            raise UserError(
                f"the second stage does not fit latents of size {z.shape[1:]}: {error}"
            ) from None
        if u.shape[1:] != (latent_dim,):
            raise UserError(
                f"the second stage's u has size {u.shape[1:]}, not latent_dim={latent_dim}."
            )
        return {"first": params, "second": params_z}, {"first": state, "second": state_z}

    def run(name, function, params, state, values, cond, stats):
        """Returns what a stage makes of x, z or u; what it cannot take is said with its name."""
        try:
            return function(params[name], state[name], values, cond, stats=stats)
        except UserError as error:
            raise UserError(f"the {name} stage: {error}") from None

    def posterior(params, state, x, cond, stats):
        return run("first", encode_x, params, state, x, cond, stats)

    def likelihood(params, state, z, cond, stats):
        return run("first", decode_z, params, state, z, cond, stats)

    def posterior_u(params, state, z, stats):
        return run("second", encode_z, params, state, z, None, stats)

    def latent(params, state, u, stats):
        return run("second", decode_u, params, state, u, None, stats)

    def encode(params, state, x, cond=None, *, stats="running"):
        return posterior_u(params, state, posterior(params, state, x, cond, stats).mean, stats)

    def decode(params, state, u, cond=None, *, stats="running"):
        return likelihood(params, state, latent(params, state, u, stats).mean, cond, stats)

    def sample(params, state, rng, n, cond=None, *, stats="running"):
        rng_u, rng_z = jax.random.split(rng)
        p = latent(params, state, noise.normal(rng_u, (n, latent_dim)), stats)
        z = distributions.sample(rng_z, p) if noise_on_z else p.mean
        return likelihood(params, state, z, cond, stats).mean

    def draw(params, state, rng, batch: Batch, stats):
        """Returns -log p(x|z), log q(z|x) - log p(z|u), q(u|z) and u of one draw of z and u."""
        rng_z, rng_u = jax.random.split(rng)
        q = posterior(params, state, batch.x, batch.cond, stats)
        z = distributions.sample(rng_z, q)
        rec = -distributions.log_prob(likelihood(params, state, z, batch.cond, stats), batch.x)
        q_u = posterior_u(params, state, z, stats)
        u = distributions.sample(rng_u, q_u)
        log_p_z = distributions.log_prob(latent(params, state, u, stats), z)
        return rec, distributions.log_prob(q, z) - log_p_z, q_u, u

    def terms(params, state, rng, batch: Batch, *, stats="running"):
        rec, ratio, q_u, _ = draw(params, state, rng, batch, stats)
        return Terms(rec, ratio + distributions.kl(q_u), {"kl_u": distributions.kl(q_u)})

    def log_weight(params, state, rng, batch: Batch, *, stats="running"):
        rec, ratio, q_u, u = draw(params, state, rng, batch, stats)
        prior = distributions.Normal(jnp.zeros_like(u), jnp.zeros_like(u))
        return distributions.log_prob(prior, u) - distributions.log_prob(q_u, u) - rec - ratio

    return Model(init, (), encode, decode, terms, sample, log_weight=log_weight)


def _both_ways(name: str, stage: Model) -> tuple[Encode, Decode]:
    if stage.encode is None or stage.decode is None:
        raise UserError(f"the {name} stage must encode and decode; this model does not.")
    return stage.encode, stage.decode
