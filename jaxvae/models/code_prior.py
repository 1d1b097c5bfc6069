"""A prior over a VQ-VAE's codes, one position after the other, and a VQ-VAE that samples from it.

    log p(index) = sum_i log softmax(net(index_1 ... index_(i-1)))_(index_i)

The positions are in the order of reading. The net sees all of them at once and must be causal
(`nets.masked_conv`): output i a function of what comes before i alone. Sampling passes it n times.

Sources: van den Oord et al. 2017 (arXiv 1711.00937), section 3.3; van den Oord et al. 2016 (arXiv
1601.06759), section 3.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxvae import distributions, noise, objectives
from jaxvae.errors import UserError, check_count
from jaxvae.models.vq_vae import GROUP, Quantiser
from jaxvae.types import Array, Aux, Batch, Model, Net, Objective, Terms


def indices(rng: Array, examples: dict[str, Array]) -> Batch:
    """Returns the codes of a VQ-VAE's latents as data: x [B, n], whole numbers as float32; it is the
    `preprocess` of a second stage on `latents`."""
    return Batch(examples["index"].astype(jnp.float32))


def code_prior(net: Net, *, shape: Sequence[int], codes: int) -> Model:
    """Returns an autoregressive model of indices x [B, n]: one objective, -log p(x), of the group
    "prior".

    Args:
        net: one-hot indices [B, *shape, codes] -> logits [B, *shape, codes], causal and without
            state.
        shape: of the positions, such as (7, 7).
        codes: how many there are.

    Returns:
        A `Model` with `log_prob` (exact, in nats) and `sample`, both of x [., n].

    Raises:
        UserError: for numbers below 1; when initialised, for data of another size and nets that do
            not fit.
    """
    shape = tuple(shape)
    for side in shape:
        check_count("a side of the positions", side)
    check_count("codes", codes, least=2)
    n = math.prod(shape)

    def logits(params, x: Array, rng=None, *, train=False) -> Array:
        hot = jax.nn.one_hot(x.astype(jnp.int32), codes).reshape(-1, *shape, codes)
        y = net.apply(params["prior"], {}, hot, rng=rng, train=train)[0]
        return y.reshape(-1, n, codes)

    def init(rng: Array, batch: Batch):
        if batch.x.shape[1:] != (n,):
            raise UserError(
                f"this prior is of {n} codes per example, the data have shape {batch.x.shape[1:]}: "
                "use preprocess=indices on the latents of a VQ-VAE with these positions."
            )
        params, state = net.init(rng, jnp.zeros((len(batch.x), *shape, codes)))
        if jax.tree.leaves(state):
            raise UserError("a prior's net must have no state: build it without BatchNorm.")
        found = jax.eval_shape(
            lambda: net.apply(params, {}, jnp.zeros((1, *shape, codes)), train=False)[0]
        )
        if found.shape != (1, *shape, codes):
            raise UserError(
                f"the prior's net must return {(*shape, codes)} per example, not {found.shape[1:]}."
            )
        return {"prior": params}, {}

    def density(params, x: Array, rng=None, *, train=False) -> Array:
        at = jax.nn.log_softmax(logits(params, x, rng, train=train), axis=-1)
        which = x.astype(jnp.int32)[..., None]
        return jnp.sum(jnp.take_along_axis(at, which, axis=-1)[..., 0], axis=1)

    def loss(params, state, rng, batch: Batch, step, carry):
        return -density(params, batch.x, rng, train=True), Aux(state)

    def log_prob(params, state, x, cond=None, *, stats="running"):
        with jax.default_matmul_precision("highest"):
            return density(params, x)

    def sample(params, state, rng, count, cond=None, *, stats="running"):
        u = noise.uniform(rng, (count, n))

        def add(i: Array, x: Array) -> Array:
            share = jnp.cumsum(jax.nn.softmax(logits(params, x)[:, i], axis=-1), axis=-1)
            drawn = jnp.sum((u[:, i, None] >= share).astype(jnp.float32), axis=-1)
            return x.at[:, i].set(jnp.minimum(drawn, codes - 1.0))

        return jax.lax.fori_loop(0, n, add, jnp.zeros((count, n)))

    return Model(init, (Objective(("prior",), loss),), sample=sample, log_prob=log_prob)


def with_code_prior(first: Model, prior: Model, quantiser: Quantiser) -> Model:
    """Returns a VQ-VAE with a prior over its codes: params are {"first": ..., "prior": ...}.

        sample    index ~ p(index);  x = E p(x|z)
        terms     rec = -log p(x|z),  kl = -log p(index), whose elbo is exact: q is one point

    Args:
        first: of `vq_vae`.
        prior: of `code_prior`, or any model of indices [B, n] with `log_prob` and `sample`.
        quantiser: that of `first`.

    Returns:
        A `Model` without objectives; a prior without state may be left out of the state.

    Raises:
        UserError: for models without what is needed.
    """
    encode_x, decode_z, log_prob, draw = first.encode, first.decode, prior.log_prob, prior.sample
    if encode_x is None or decode_z is None or log_prob is None or draw is None:
        raise UserError("a prior over codes needs a VQ-VAE, and a model with log_prob and sample.")

    def init(rng: Array, batch: Batch):
        rng_first, rng_prior = jax.random.split(rng)
        params, state = first.init(rng_first, batch)
        index = jax.eval_shape(lambda: encode_x(params, state, batch.x, batch.cond)).index
        of_prior, prior_state = prior.init(rng_prior, Batch(jnp.zeros(index.shape)))
        return {"first": params, "prior": of_prior}, {"first": state, "prior": prior_state}

    def encode(params, state, x, cond=None, *, stats="running"):
        return encode_x(params["first"], state["first"], x, cond, stats=stats)

    def decode(params, state, z, cond=None, *, stats="running"):
        return decode_z(params["first"], state["first"], z, cond, stats=stats)

    def terms(params, state, rng, batch: Batch, *, stats="running"):
        q = encode(params, state, batch.x, batch.cond, stats=stats)
        p = decode(params, state, q.mean, batch.cond, stats=stats)
        x = q.index.astype(jnp.float32)
        kl = -log_prob(params["prior"], state.get("prior", {}), x, stats=stats)
        return Terms(-distributions.log_prob(p, batch.x), kl)

    def log_weight(params, state, rng, batch: Batch, *, stats="running"):
        return objectives.elbo(terms(params, state, rng, batch, stats=stats))

    def sample(params, state, rng, n, cond=None, *, stats="running"):
        index = draw(params["prior"], state.get("prior", {}), rng, n, stats=stats)
        tables = params["first"].get(GROUP), state["first"].get(GROUP)
        z = quantiser.lookup(*tables, index.astype(jnp.int32))
        return decode(params, state, z.reshape(n, -1), cond, stats=stats).mean

    return Model(init, (), encode, decode, terms, sample, log_weight=log_weight)
