"""The VQ-VAE: an autoencoder whose codes are entries of a learned table, and a prior over them.

    h = encoder(x) [n positions, E];   index_i = argmin_k |h_i - e_k|;   z_i = e_(index_i)
    loss(x) = -log p(x|z) + |sg(h) - z|^2 + commitment |h - sg(z)|^2        (sums over n and E)

sg stops the gradient. The decoder's gradient at z goes to h as it is (straight through), for that of
the choice is 0; the second term moves the table, the third keeps h near it. With `ema` the table is
no parameter but a moving average of the h that chose each entry, and the second term is gone:

    N_k <- decay N_k + (1 - decay) n_k,   m_k <- decay m_k + (1 - decay) sum of h,   e_k = m_k / N_k

q(z|x) is one point of codes^n: under a uniform prior KL = n log(codes), whatever x, so -loss without
the last two terms, less that, is a bound of log p(x). A prior of the indices, trained as a second
stage, lowers it to -log p(index):

    z = latents(model, first.params, first.state, source)
    prior = code_prior(nets.masked_conv(512), shape=(7, 7), codes=512)
    second = fit(prior, tx, z.source, preprocess=indices, steps=...).train_state
    both = with_code_prior(model, prior, quantiser)
    both.sample({"first": first.params, "prior": second.params}, {"first": first.state}, rng, n)

Sources: van den Oord et al. 2017 (arXiv 1711.00937), Eqs. 1 to 3, sections 3.1 to 3.3, appendix A.1
(moving averages; entries that nothing chooses are kept from dividing by 0 as in DeepMind's code);
van den Oord et al. 2016 (arXiv 1601.06759) for the prior.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxvae import distributions, noise, objectives, parallel
from jaxvae.errors import UserError, check_count, check_number
from jaxvae.models import likelihoods
from jaxvae.models.likelihoods import check_data, check_float
from jaxvae.models.vae import use_batch
from jaxvae.types import (
    Array,
    Aux,
    Batch,
    Likelihood,
    Model,
    Net,
    Objective,
    Params,
    State,
    Terms,
    Tree,
)

GROUP = "codebook"
EPSILON = 1e-5  # added to how often an entry was chosen


class Codes(NamedTuple):
    """All mass at one z of `codes`^n, which a uniform prior gives probability codes^-n."""

    mean: Array  # [B, n E], the entries of the table
    # [B, n] int32, which they are
    index: Array  # pyright: ignore[reportIncompatibleMethodOverride] - the name is public
    cost: Array  # [B], n log(codes)

    def sample(self, rng: Array) -> Array:
        """Returns the mean, the same at every draw."""
        return self.mean

    def log_prob(self, x: Array) -> Array:
        """Returns 0 where x is the mean, else -inf [B]."""
        return jnp.where(jnp.all(x == self.mean, axis=-1), 0.0, -jnp.inf)

    def kl(self) -> Array:
        """Returns the KL to the uniform prior over codes [B]."""
        return self.cost


class Found(NamedTuple):
    """What a quantiser makes of h [B, n, E]."""

    z: Array  # [B, n, E], whose gradient is that of h
    # [B, n] int32
    index: Array  # pyright: ignore[reportIncompatibleMethodOverride] - the name is public
    paid: Array  # [B], what the loss pays for it
    state: Tree


class Quantiser(NamedTuple):
    """A finite set of vectors, and which of them a vector becomes."""

    codes: int
    size: int  # E, numbers of a vector
    init: Callable  # (rng) -> (params, state); each may be None
    quantise: Callable  # (params, state, h [B, n, E], train) -> Found
    lookup: Callable  # (params, state, index [...]) -> z [..., E]


def codebook(
    codes: int = 512,
    size: int = 64,
    *,
    commitment: float = 0.25,
    ema: bool = False,
    decay: float = 0.99,
) -> Quantiser:
    """Returns the table of the VQ-VAE, which starts at U(-1/codes, 1/codes).

    Args:
        codes: entries.
        size: E.
        commitment: the paper's beta, >= 0; it may be traced.
        ema: moving averages in place of the second term of the loss; they start as if each entry
            had been chosen once, and move at every part of a batch where gradients are accumulated.
        decay: of ema, in [0, 1); it may be traced.

    Raises:
        UserError: for numbers out of range.
    """
    check_count("codes", codes, least=2)
    check_count("size", size)
    check_number("commitment", commitment, least=0.0)
    check_number("decay", decay, least=0.0, below=1.0)

    def init(rng: Array) -> tuple[Tree, Tree]:
        table = jax.random.uniform(rng, (codes, size), minval=-1.0 / codes, maxval=1.0 / codes)
        if not ema:
            return {"entries": table}, None
        return None, {"entries": table, "count": jnp.ones(codes), "sum": jnp.copy(table)}

    def entries(params: Tree, state: Tree) -> Array:
        return state["entries"] if ema else params["entries"]

    def quantise(params: Tree, state: Tree, h: Array, train: bool) -> Found:
        table = entries(params, state)
        # "highest": the same choice in training and evaluation
        inner = jnp.dot(h, table.T, precision="highest")
        far = jnp.sum(jnp.square(table), axis=-1) - 2.0 * inner  # less |h|^2, which is alike
        index = jnp.argmin(far, axis=-1).astype(jnp.int32)
        z, stop = table[index], jax.lax.stop_gradient

        def distance(a: Array, b: Array) -> Array:
            return jnp.sum(jnp.square(a - b), axis=(1, 2))

        paid = commitment * distance(h, stop(z))
        if not ema:
            paid = paid + distance(stop(h), z)
        elif train:
            state = _averaged(state, stop(h), index, decay)
        return Found(h + stop(z - h), index, paid, state)

    return Quantiser(
        codes, size, init, quantise, lambda params, state, index: entries(params, state)[index]
    )


def _averaged(state: Tree, h: Array, index: Array, decay: Array | float) -> Tree:
    """Returns the moving averages after this (global) batch."""
    codes, size = state["entries"].shape
    chosen = jax.nn.one_hot(index.reshape(-1), codes)
    near = jnp.dot(chosen.T, h.reshape(-1, size), precision="highest")
    n, total = parallel.total((jnp.sum(chosen, axis=0), near))
    count = decay * state["count"] + (1.0 - decay) * n
    added = decay * state["sum"] + (1.0 - decay) * total
    every = jnp.sum(count)
    smooth = (count + EPSILON) / (every + codes * EPSILON) * every
    return {"entries": added / smooth[:, None], "count": count, "sum": added}


def vq_vae(
    encoder: Net,
    decoder: Net,
    quantiser: Quantiser,
    *,
    shape: Sequence[int],
    likelihood: Literal["bernoulli", "gaussian"] | Likelihood = "gaussian",
    gamma: float | Literal["learned"] = 0.5,
    gamma_floor: float = 1e-8,
) -> Model:
    """Returns a VQ-VAE: one objective, which also moves the table, where that is a parameter.

    Args:
        encoder: x [B, ...] -> h [B, *shape, E] (`nets.vq_nets`); takes `cond` if batches have one.
        decoder: z [B, *shape, E] -> x's shape.
        quantiser: `codebook(...)`, or `finite_scalar(...)`, which has no table.
        shape: of the positions, such as (7, 7); n is their number.
        likelihood, gamma, gamma_floor: as in `vae`; gamma = 1/2 is the summed squared error.

    Returns:
        A `Model` whose z [B, n E] are the chosen vectors (`Codes`), whose `sample` draws each index
        uniformly, with metrics `loss`, `rec`, `kl`, `elbo` (under the uniform prior), `quantisation`
        (what the loss pays beside rec) and `perplexity`: exp of the entropy of the indices of the
        whole batch, from 1 to `codes`.

    Raises:
        UserError: when initialised, for nets and data that do not fit.
    """
    shape = tuple(shape)
    for side in shape:
        check_count("a side of the positions", side)
    n, codes = math.prod(shape), quantiser.codes
    options: dict[str, Any] = {"gamma": gamma, "gamma_floor": gamma_floor}
    p_of = likelihoods.likelihood(likelihood, **options)
    coder = _Coder(encoder, decoder, quantiser, shape, p_of)
    encode, decode = coder.encode, coder.decode

    def loss(params, state, rng, batch: Batch, step, carry):
        check_float(batch.x)
        rng_encoder, rng_decoder = jax.random.split(rng)
        found, state = coder.quantised(params, state, batch.x, batch.cond, rng_encoder, True)
        p, state = coder.decoded(params, state, found.z, batch.cond, rng_decoder, True)
        rec = -distributions.log_prob(p, batch.x)
        kl = jnp.full_like(rec, n * math.log(codes))
        metrics = {"rec": rec, "kl": kl, "elbo": objectives.elbo(Terms(rec, kl))}
        metrics |= {"quantisation": found.paid, "perplexity": _perplexity(found.index, codes)}
        metrics |= likelihoods.report(p_of, params)
        return rec + found.paid, Aux(state, metrics)

    def terms(params, state, rng, batch: Batch, *, stats="running"):
        q = encode(params, state, batch.x, batch.cond, stats=stats)
        p = decode(params, state, q.mean, batch.cond, stats=stats)
        return Terms(-distributions.log_prob(p, batch.x), q.kl())

    def log_weight(params, state, rng, batch: Batch, *, stats="running"):
        return objectives.elbo(terms(params, state, rng, batch, stats=stats))

    def sample(params, state, rng, count, cond=None, *, stats="running"):
        index = (noise.uniform(rng, (count, n)) * codes).astype(jnp.int32)
        index = jnp.minimum(index, codes - 1)
        z = quantiser.lookup(params.get(GROUP), state.get(GROUP), index)
        return decode(params, state, z.reshape(count, -1), cond, stats=stats).mean

    table = jax.eval_shape(quantiser.init, jax.random.key(0))[0]
    groups = ("encoder", "decoder", *(() if table is None else (GROUP,)))
    objective = Objective((*groups, *likelihoods.groups(p_of)), loss)
    return Model(coder.init, (objective,), encode, decode, terms, sample, log_weight=log_weight)


class _Coder(NamedTuple):
    """Both nets, what is between them, and what the decoder's output stands for."""

    encoder: Net
    decoder: Net
    quantiser: Quantiser
    shape: tuple[int, ...]
    likelihood: Likelihood

    def init(self, rng: Array, batch: Batch) -> tuple[Params, State]:
        """Returns parameters and state; raises `UserError` for data and nets that do not fit."""
        x, cond = batch
        check_data(x, self.likelihood)
        rngs, z = jax.random.split(rng, 3), jnp.zeros((len(x), *self.shape, self.quantiser.size))
        starts = {
            "encoder": self.encoder.init(rngs[0], x, cond),
            "decoder": self.decoder.init(rngs[1], z, cond),
            GROUP: self.quantiser.init(rngs[2]),
        }
        params = {name: start[0] for name, start in starts.items() if start[0] is not None}
        state = {name: start[1] for name, start in starts.items() if start[1] is not None}
        if self.likelihood.init is not None:
            params["likelihood"] = self.likelihood.init()
        encoded, decoded = jax.eval_shape(
            lambda: (
                self.passed("encoder", params, state, x, cond)[0],
                self.passed("decoder", params, state, z, cond)[0],
            )
        )
        for name, found, want in (
            ("encoder", encoded.shape, z.shape),
            ("decoder", decoded.shape, x.shape),
        ):
            if found != want:
                raise UserError(
                    f"the {name} returns shape {found[1:]} per example, not {want[1:]}: build it "
                    "for that."
                )
        return params, state

    def passed(
        self, name: str, params, state, value, cond, rng=None, train=False
    ) -> tuple[Array, State]:
        """Returns what one of the nets makes of its input, and the state after this pass."""
        net = self.encoder if name == "encoder" else self.decoder
        y, new = net.apply(params[name], state[name], value, cond=cond, rng=rng, train=train)
        return y, {**state, name: new}

    def quantised(self, params, state, x, cond, rng, train) -> tuple[Found, State]:
        """Returns the codes of x, and the state after this pass."""
        h, state = self.passed("encoder", params, state, x, cond, rng, train)
        h = h.reshape(len(x), math.prod(self.shape), self.quantiser.size)
        found = self.quantiser.quantise(params.get(GROUP), state.get(GROUP), h, train)
        return found, state if found.state is None else {**state, GROUP: found.state}

    def decoded(self, params, state, z, cond, rng, train) -> tuple[Any, State]:
        """Returns p(x|z), and the state after this pass."""
        z = z.reshape(-1, *self.shape, self.quantiser.size)
        y, state = self.passed("decoder", params, state, z, cond, rng, train)
        return self.likelihood.build(params.get("likelihood"), y), state

    def encode(self, params, state, x, cond=None, *, stats="running") -> Codes:
        """Returns q(z|x)."""
        check_float(x)
        found, _ = self.quantised(params, state, x, cond, None, use_batch(stats))
        z = self.quantiser.lookup(params.get(GROUP), state.get(GROUP), found.index)
        cost = math.prod(self.shape) * math.log(self.quantiser.codes)
        return Codes(z.reshape(len(x), -1), found.index, jnp.full(len(x), cost))

    def decode(self, params, state, z, cond=None, *, stats="running") -> Any:
        """Returns p(x|z)."""
        return self.decoded(params, state, z, cond, None, use_batch(stats))[0]


def _perplexity(index: Array, codes: int) -> Array:
    """Returns exp of the entropy of the indices of the global batch []."""
    counts = parallel.total(jnp.sum(jax.nn.one_hot(index.reshape(-1), codes), axis=0))
    share = counts / jnp.sum(counts)
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share, share)))
