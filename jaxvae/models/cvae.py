"""Completion of images: a conditional VAE of the pixels that are missing, given the others.

    p(x | c) = int p(x | z, c) N(z; 0, I) dz,   loss = -log p(x | z, c) + KL(q(z | x, c) || N(0, I))

where c are the given pixels and x the missing ones. `completion` does this to any model that takes a
condition: it sees the missing pixels as x [B, n] and the given ones, or what a net makes of them, as
cond [B, m]; outside, x, cond and samples are whole images, and a sample shows what was given. A
regressor, p(x | c) without a latent, is what the tutorial compares with: it can only blur what c
leaves open.

Source: Doersch 2016 (arXiv 1606.05908), sections 3 and 4.2; Sohn et al. 2015 (NeurIPS).
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxvae.data.completion import check_mask
from jaxvae.errors import UserError
from jaxvae.models import likelihoods
from jaxvae.models.likelihoods import check_data, check_float
from jaxvae.models.vae import use_batch, vae
from jaxvae.types import Array, Aux, Batch, Likelihood, Model, Net, Objective, Params, State

CONDITION = "condition"  # the parameter group of the condition's net
KEY = 0xC09D  # folded into an objective's key for that net's noise


def cvae(
    encoder: Net,
    decoder: Net,
    condition: Net | None = None,
    *,
    given: np.ndarray,
    latent_dim: int,
    **options: Any,
) -> Model:
    """Returns the conditional VAE that completes images: `completion` of a `vae`.

    Its one objective moves "encoder", "decoder" and, where there is such a net, "condition". The
    likelihood is of the missing pixels alone, and so are rec, elbo and the bounds made of them.

    Args:
        encoder: missing pixels [B, n] -> [B, 2 D]; takes `cond` [B, m].
        decoder: z [B, D] -> [B, n]; takes `cond` [B, m].
        condition: given pixels [B, c] -> [B, m], learned with both; None: they see the pixels.
        given: which pixels are given, bool [H, W] (`data.completion.given_pixels`).
        latent_dim: D.
        options: of `vae`.

    Returns:
        A `Model` whose `decode` is a `Completion`, with the metrics of `vae`.

    Raises:
        UserError: as `vae` and `completion`.
    """
    return completion(vae(encoder, decoder, latent_dim=latent_dim, **options), given, condition)


def regressor(
    net: Net,
    *,
    likelihood: Literal["bernoulli", "gaussian"] | Likelihood = "bernoulli",
    gamma: float | Literal["learned"] = 1.0,
) -> Model:
    """Returns a regression of x [B, n] on cond [B, m] without a latent: -log p(x | cond), exactly.

    A net with state is refused, as its output would not be a function of cond alone.

    Args:
        net: cond [B, m] -> x's shape: logits, or means.
        likelihood, gamma: as in `vae`.

    Returns:
        A `Model` that moves the group "regressor" (and "likelihood"), with `log_prob` and `sample`
        (the mean of p(x | cond), the same at every draw), and the metric `log_prob`, in nats.

    Raises:
        UserError: as `vae`; when initialised, for batches without a condition, nets with state and
            shapes that do not fit.
    """
    p_of = likelihoods.likelihood(likelihood, gamma=gamma)

    def regress(
        params: Params, cond: Array | None, rng: Array | None = None, train: bool = False
    ) -> Any:
        cond = _need_cond(cond)
        output, _ = net.apply(params["regressor"], {}, cond, rng=rng, train=train)
        return p_of.build(params.get("likelihood"), output)

    def init(rng: Array, batch: Batch) -> tuple[Params, State]:
        check_data(batch.x, p_of)
        start, state = net.init(rng, _need_cond(batch.cond))
        if jax.tree.leaves(state):
            raise UserError("a regressor's net has no state: build it without BatchNorm.")
        params = {"regressor": start}
        if p_of.init is not None:
            params["likelihood"] = p_of.init()
        mean = jax.eval_shape(lambda: regress(params, batch.cond).mean)
        if mean.shape != batch.x.shape:
            raise UserError(
                f"the regressor returns shape {mean.shape[1:]} per example, the data has "
                f"{batch.x.shape[1:]}: build it for shape {batch.x.shape[1:]}."
            )
        return params, {}

    def loss(params, state, rng, batch: Batch, step, carry):
        check_float(batch.x)
        value = regress(params, batch.cond, rng, train=True).log_prob(batch.x)
        return -value, Aux(state, {"log_prob": value} | likelihoods.report(p_of, params))

    def log_prob(params, state, x, cond=None, *, stats="running"):
        use_batch(stats)
        return regress(params, cond).log_prob(x)

    def sample(params, state, rng, n, cond=None, *, stats="running"):
        use_batch(stats)
        return regress(params, cond).mean

    objective = Objective(("regressor", *likelihoods.groups(p_of)), loss)
    return Model(init, (objective,), sample=sample, log_prob=log_prob)


class Completion(NamedTuple):
    """The distribution of an image of which a part is given, and `rest` is that of the others."""

    rest: Any  # a distribution of the missing numbers [B, n]
    image: Array  # [B, H, W, C], which is read at given pixels alone
    missing: Array  # [n], where the missing numbers stand in an image, row by row

    @property
    def mean(self) -> Array:
        """The mean [B, H, W, C]; given pixels are what they are."""
        return _paste(self.image, self.missing, self.rest.mean)

    def sample(self, rng: Array) -> Array:
        """Returns a draw [B, H, W, C]; given pixels are what they are."""
        return _paste(self.image, self.missing, self.rest.sample(rng))

    def log_prob(self, x: Array) -> Array:
        """Returns log p [B] of the missing pixels of x [B, H, W, C], given the others, in nats."""
        return self.rest.log_prob(_take(x, self.missing))


def completion(model: Model, given: np.ndarray, condition: Net | None = None) -> Model:
    """Returns `model`, which takes vectors and vectors as conditions, as one that completes images.

    Batches, conditions and samples are images [B, H, W, C] (`data.completion.make_completion`);
    `model` sees the missing numbers [B, n], row by row, as x, and the given ones, or what
    `condition` makes of them, as cond.

    Args:
        model: a model of x [B, n] given cond [B, m], such as a `vae` or a `regressor`.
        given: which pixels are given, bool [H, W]; of all channels.
        condition: given numbers [B, c] -> [B, m], which every objective moves as the group
            "condition".

    Returns:
        A `Model` with the functions that `model` has. `sample` shows the given pixels as they are.

    Raises:
        UserError: for a mask that leaves nothing to do; when used, for batches without a condition
            and images of another size.
    """
    given = np.asarray(given)
    check_mask(given, (*given.shape, 1))
    outer = _Outer(model, given, condition)

    def lift(objective: Objective) -> Objective:
        def loss(params, state, rng, batch: Batch, step, carry):
            rng_condition = jax.random.fold_in(rng, KEY)
            batch, state = outer.enter(params, state, batch, rng_condition, train=True)
            return objective.loss(params, state, rng, batch, step, carry)

        moved = () if condition is None else (CONDITION,)
        return objective._replace(wrt=(*objective.wrt, *moved), loss=loss)

    verbs = ("encode", "decode", "terms", "sample", "log_prob", "log_weight")
    lifted: dict[str, Any] = {
        verb: getattr(outer, verb) for verb in verbs if getattr(model, verb) is not None
    }
    objectives = tuple(lift(each) for each in model.objectives)
    return Model(outer.init, objectives, **lifted, prior=model.prior)


class _Outer(NamedTuple):
    """A model of missing numbers, as one of images."""

    model: Any  # a Model
    given: np.ndarray
    condition: Net | None

    def places(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Returns where missing and given numbers stand in an image of `shape`, row by row."""
        check_mask(self.given, shape)
        is_given = np.broadcast_to(self.given[..., None], shape).reshape(-1)
        return np.flatnonzero(~is_given), np.flatnonzero(is_given)

    def features(
        self, params: Params, state: State, cond: Array | None, rng=None, *, train: bool
    ) -> tuple[Array, State]:
        """Returns what the model sees of a condition [B, H, W, C], and the state after this."""
        cond = _need_cond(cond)
        numbers = _take(cond, self.places(cond.shape[1:])[1])
        if self.condition is None:
            return numbers, state
        found, new = self.condition.apply(
            params[CONDITION], state[CONDITION], numbers, rng=rng, train=train
        )
        return found, {**state, CONDITION: new}

    def enter(
        self, params: Params, state: State, batch: Batch, rng=None, *, train: bool
    ) -> tuple[Batch, State]:
        """Returns the model's batch of missing numbers, and the state after the condition's net."""
        x, cond = batch.x, _need_cond(batch.cond)
        if cond.shape != x.shape:
            raise UserError(
                f"the condition must be an image like x, {x.shape}, not of shape {cond.shape}."
            )
        found, state = self.features(params, state, cond, rng, train=train)
        return Batch(_take(x, self.places(x.shape[1:])[0]), found), state

    def init(self, rng: Array, batch: Batch) -> tuple[Params, State]:
        """Returns the model's parameters and state, and those of the condition's net."""
        rng_condition, rng_model = jax.random.split(rng)
        params, state = {}, {}
        if self.condition is not None:
            cond = _need_cond(batch.cond)
            numbers = _take(cond, self.places(cond.shape[1:])[1])
            params[CONDITION], state[CONDITION] = self.condition.init(rng_condition, numbers)
        inner, _ = self.enter(params, state, batch, train=False)
        inner_params, inner_state = self.model.init(rng_model, inner)
        return {**inner_params, **params}, {**inner_state, **state}

    def encode(self, params, state, x, cond=None, *, stats="running"):
        """Returns q(z | x, cond)."""
        inner, state = self.enter(params, state, Batch(x, cond), train=use_batch(stats))
        return self.model.encode(params, state, inner.x, inner.cond, stats=stats)

    def decode(self, params, state, z, cond=None, *, stats="running") -> Completion:
        """Returns p(image | z, cond)."""
        found, state = self.features(params, state, cond, train=use_batch(stats))
        rest = self.model.decode(params, state, z, found, stats=stats)
        return Completion(rest, _need_cond(cond), self._missing(cond))

    def terms(self, params, state, rng, batch: Batch, *, stats="running"):
        """Returns rec, of the missing pixels, and kl."""
        inner, state = self.enter(params, state, batch, train=use_batch(stats))
        return self.model.terms(params, state, rng, inner, stats=stats)

    def sample(self, params, state, rng, n, cond=None, *, stats="running") -> Array:
        """Returns completions of cond [n, H, W, C]."""
        found, state = self.features(params, state, cond, train=use_batch(stats))
        rest = self.model.sample(params, state, rng, n, found, stats=stats)
        return _paste(_need_cond(cond), self._missing(cond), rest)

    def log_prob(self, params, state, x, cond=None, *, stats="running") -> Array:
        """Returns log p of the missing pixels [B]."""
        inner, state = self.enter(params, state, Batch(x, cond), train=use_batch(stats))
        return self.model.log_prob(params, state, inner.x, inner.cond, stats=stats)

    def log_weight(self, params, state, rng, batch: Batch, *, stats="running") -> Array:
        """Returns the model's weight of the missing pixels [B]."""
        inner, state = self.enter(params, state, batch, train=use_batch(stats))
        return self.model.log_weight(params, state, rng, inner, stats=stats)

    def _missing(self, cond: Any) -> Array:
        return jnp.asarray(self.places(cond.shape[1:])[0])


def _need_cond(cond: Array | None) -> Array:
    """Returns a condition that is there; raises `UserError` for None."""
    if cond is None:
        raise UserError(
            "this model completes what it is given: batches and samples need cond, as "
            "data.completion.make_completion makes it of images."
        )
    return cond


def _take(x: Array, places: Any) -> Array:
    """Returns the numbers at `places` [n] of each example: [B, n]."""
    return x.reshape(x.shape[0], -1)[:, places]


def _paste(image: Array, places: Array, numbers: Array) -> Array:
    """Returns images [B, ...] with `numbers` [B, n] at `places` [n]."""
    flat = image.reshape(image.shape[0], -1)
    return flat.at[:, places].set(numbers.astype(flat.dtype)).reshape(image.shape)
