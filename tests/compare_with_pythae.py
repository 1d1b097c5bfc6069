"""Losses of our models beside pythae's, of the same weights, batch and noise: prints each difference.

    pip install torch pythae
    python tests/compare_with_pythae.py

pythae leaves out log 2 pi where it cancels, and takes means where we take sums; what is compared is
said in each line. Nothing in the tests needs this; it is how far two implementations agree.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import torch
from pythae.models import IWAE, VAMP, BetaTCVAE, FactorVAE
from pythae.models.vq_vae.vq_vae_utils import Quantizer, QuantizerEMA

from jaxvae import distributions, models, nets
from jaxvae.types import Batch

DIM, PIXELS, SIZE, STEP = 3, 8, 16, jnp.int32(0)
RNG = jax.random.key(7)
X = jax.random.uniform(jax.random.key(1), (SIZE, PIXELS), minval=0.05, maxval=0.95)
CONFIG = SimpleNamespace(reconstruction_loss="bce", input_dim=(PIXELS,))


def pair():
    return nets.mlp((), 2 * DIM), nets.mlp((), PIXELS)


def tensor(x):
    return torch.tensor(np.asarray(x), dtype=torch.float32)


def linear(params, name):
    """Returns weights and bias of one of our linear nets, which torch may differentiate."""
    dense = params[name]["Dense_0"]
    return [tensor(dense[part]).requires_grad_() for part in ("kernel", "bias")]


def passed(params, eps):
    """Returns recon_x, mu, log_var, z of pythae's kind, and the encoder's weights; eps [..., B, D]."""
    (w, b), (v, c) = linear(params, "encoder"), linear(params, "decoder")
    mu, log_var = (tensor(X) @ w + b).split(DIM, dim=-1)
    z = mu + torch.exp(0.5 * log_var) * tensor(eps)
    return torch.sigmoid(z @ v + c), mu, log_var, z, (w, b)


def ours(model, **more):
    """Returns params, state, the mean loss with its gradients, and metrics."""
    params, state = model.init(jax.random.key(2), Batch(X))
    params = {**params, **more}

    def mean(params):
        loss, aux = model.objectives[0].loss(params, state, RNG, Batch(X), STEP, None)
        return jnp.mean(loss), aux

    (value, aux), grads = jax.jit(jax.value_and_grad(mean, has_aux=True))(params)
    return params, state, float(value), grads, aux


def noise_of(rng):
    return distributions.Normal(jnp.zeros((SIZE, DIM)), jnp.zeros((SIZE, DIM))).sample(rng)


def second_key():
    """The key of z in a loss that draws one for the encoder's pass before it."""
    return jax.random.split(jax.random.split(RNG)[0])[1]


def show(what, a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    print(f"{what:<56} {np.abs(a - b).max() / np.abs(b).max():.1e}")


def iwae():
    k = 5
    params, _, _, grads, aux = ours(models.iwae(*pair(), latent_dim=DIM, k=k))
    rngs = jax.random.split(jax.random.split(RNG, 3)[0], k)
    eps = jax.vmap(noise_of)(rngs)
    recon, mu, log_var, z, weights = passed(params, eps)
    several = [v.transpose(0, 1) for v in (recon, z)]
    means = [v.unsqueeze(1).repeat(1, k, 1) for v in (mu, log_var)]
    this = SimpleNamespace(n_samples=k, model_config=CONFIG)
    loss, rec, _ = IWAE.loss_function(this, several[0], tensor(X), *means, several[1])
    loss.backward()
    show("IWAE, rec of 5 draws", jnp.mean(aux.metrics["rec"]), rec.item())
    dense = grads["encoder"]["Dense_0"]
    show("IWAE, gradient of the encoder", dense["kernel"], weights[0].grad)


def vamp():
    model = models.vamp(*pair(), latent_dim=DIM, components=4)
    params, _, value, _, _ = ours(model)
    recon, mu, log_var, z, (w, b) = passed(params, noise_of(second_key()))

    def encoder(x):
        mean, logvar = (x @ w + b).split(DIM, dim=-1)
        return SimpleNamespace(embedding=mean, log_covariance=logvar)

    this = SimpleNamespace(
        number_components=4,
        model_config=CONFIG,
        linear_scheduling=0,
        encoder=encoder,
        pseudo_inputs=lambda idle: torch.sigmoid(tensor(params["pseudo_inputs"])),
        idle_input=torch.eye(4),
    )
    this._log_p_z = lambda z: VAMP._log_p_z(this, z)
    show(
        "VampPrior, loss",
        value,
        VAMP.loss_function(this, recon, tensor(X), mu, log_var, z, 1)[0].item(),
    )


def tc_vae():
    for estimator, convention in (("mws", "paper"), ("mss", "released")):
        options = {"estimator": estimator, "convention": convention, "data_size": 100}
        model = models.tc_vae(*pair(), latent_dim=DIM, beta=6.0, alpha=0.5, marginal=2.0, **options)
        params, _, value, grads, _ = ours(model)
        *outputs, weights = passed(params, noise_of(second_key()))
        recon, mu, log_var, z = outputs
        this = SimpleNamespace(
            alpha=0.5, beta=6.0, gamma=2.0, use_mss=estimator == "mss", model_config=CONFIG
        )
        for name in ("_compute_log_gauss_density", "_log_importance_weight_matrix"):
            setattr(this, name, getattr(BetaTCVAE, name).__get__(this))
        loss = BetaTCVAE.loss_function(this, recon, tensor(X), mu, log_var, z, 100)[0]
        loss.backward()
        show(f"beta-TCVAE, loss, {estimator}", value, loss.item())
        dense = grads["encoder"]["Dense_0"]
        show(f"beta-TCVAE, gradient of the encoder, {estimator}", dense["kernel"], weights[0].grad)


def factor_vae():
    model = models.factor_vae(*pair(), nets.mlp((), ()), latent_dim=DIM, tc_weight=7.0)
    params, _, value, _, _ = ours(model)
    recon, mu, log_var, z, _ = passed(params, noise_of(second_key()))
    w, b = linear(params, "discriminator")

    def discriminator(z):  # of two outputs, whose difference is our one
        logit = z @ w + b
        return torch.cat([logit, torch.zeros_like(logit)], dim=1)

    this = SimpleNamespace(gamma=7.0, model_config=CONFIG, discriminator=discriminator)
    found = FactorVAE.loss_function(this, recon, tensor(X), mu, log_var, z, z)
    show("FactorVAE, loss of the auto-encoder", value, found[1].item())


def vq_vae():
    h = jax.random.normal(jax.random.key(3), (SIZE, 4, DIM))
    theirs = SimpleNamespace(
        embedding_dim=DIM,
        num_embeddings=6,
        commitment_loss_factor=0.25,
        quantization_loss_factor=1.0,
        decay=0.9,
    )
    for ema in (False, True):
        quantiser = models.codebook(6, DIM, commitment=0.25, ema=ema, decay=0.9)
        params, state = quantiser.init(jax.random.key(4))
        found = jax.jit(quantiser.quantise, static_argnums=3)(params, state, h, True)
        other = (QuantizerEMA if ema else Quantizer)(theirs)
        if ema:
            other.embeddings.data = tensor(state["entries"])
            other.cluster_size, other.ema_embed = tensor(state["count"]), tensor(state["sum"])
        else:
            other.embeddings.weight.data = tensor(params["entries"])
        out = other(tensor(h)[:, :, None])
        name = "moving averages" if ema else "loss"
        show(
            f"VQ-VAE, paid for codes, {name} (theirs x n E)",
            jnp.mean(found.paid),
            4 * DIM * out.loss.item(),
        )
        show(
            f"VQ-VAE, indices, {name}", found.index + 1, out.quantized_indices.reshape(SIZE, 4) + 1
        )
        if ema:
            show("VQ-VAE, the table after a step", found.state["entries"], other.embeddings)


if __name__ == "__main__":
    with jax.default_matmul_precision("highest"):
        for compare in (iwae, vamp, tc_vae, factor_vae, vq_vae):
            compare()
