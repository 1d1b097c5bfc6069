"""What the style-based experiments of the Soft-IntroVAE paper trained (section 6.3, appendices 9.2.3 and
9.4.1), as the paper says and as the released configurations do; and narrow nets for a CPU.

A setting is options of the preset `style_soft_intro_vae`, and where its images come from.
"""

from typing import Any, NamedTuple

from jaxvae.metrics.protocols import PROTOCOLS, Protocol

PRECISION = "float32, highest"
STYLE = PROTOCOLS["standard"]._replace(pixels="truncate")  # stock FID of truncated bytes
OFFLINE = PROTOCOLS["squeezenet"]
SIDES = (4, 8, 16, 32, 64, 128, 256)
BATCHES = (512, 256, 128, 64, 32, 32, 16)  # of four GPUs; of one 128, 128, 128, 32, 16, 8, 4
BETA_NEG = (2048.0, 2048.0, 2048.0, 1024.0, 512.0, 512.0, 512.0)


class Setting(NamedTuple):
    """How a data set is trained on."""

    data: str  # what `jaxvae.data.load` calls it, or a folder of images where `images` is given
    options: dict[str, Any]  # of the preset
    images: int | None = None  # of the training split, in a folder; the rest are for tests
    pad: int = 0  # black pixels around an image

    @property
    def is_narrow(self) -> bool:
        """Whether it is a stand-in of ours."""
        return self.images is None

    @property
    def side(self) -> int:
        """Pixels of the last resolution."""
        return self.options["resolutions"][-1]


RELEASED = {
    "resolutions": SIDES,
    "batch_sizes": BATCHES,
    "level_epochs": 30,
    "epochs": 230,  # of 300: those of the published checkpoint
    "num_vae": 1,
    "beta_rec": 0.05,
    "beta_kl": 0.2,
    "beta_neg": BETA_NEG,
    "learning_rates": (1.5e-3,) * 7,
    "gamma_r": 1e-8,
    "mixing": 0.9,
    "ema_images": 10_000.0,
    "convention": "released",
    "flip": True,
}
FFHQ = RELEASED | {
    "level_epochs": 16,
    "epochs": 270,
    "beta_rec": 0.1,
    "learning_rates": (*(1.5e-3,) * 6, 2e-3),
}
# what the paper says otherwise; the batches, the moving average and the VAE before it are the code's
PAPER = {"level_epochs": 30, "beta_neg": (512.0,), "learning_rates": (1.5e-3,) * 7}
PAPER |= {"convention": "paper"}
# of LSUN nothing is published but the side: the weights are CelebA-HQ's, the epochs those of ALAE's
# configuration for these images
BEDROOM = RELEASED | {
    "resolutions": SIDES[:-1],
    "batch_sizes": BATCHES[:-1],
    "beta_neg": BETA_NEG[:-1],
    "learning_rates": (1.5e-3,) * 6,
    "level_epochs": 2,
    "epochs": 112,
}
PUBLISHED = {
    "celeba_hq/released": Setting("celeba_hq", RELEASED, 29_000),
    "celeba_hq/paper": Setting("celeba_hq", RELEASED | PAPER, 29_000),
    "ffhq/released": Setting("ffhq", FFHQ, 60_000),
    "ffhq/paper": Setting("ffhq", FFHQ | PAPER, 60_000),
    "lsun_bedroom/released": Setting("lsun_bedroom", BEDROOM, 3_033_042),
}
STEPS = 2_400  # of each narrow resolution
NARROW_OPTIONS = {
    "resolutions": (8, 16, 32),
    "batch_size": 32,
    "latent_dim": 64,
    "start_channels": 8,
    "max_channels": 32,
    "mapping_layers": 4,
    "level_steps": STEPS,
    "steps": 3 * STEPS,
    "num_vae": 1,
    # the published weights are of images of up to 196,608 values, 512 latents and s = 5e-6; with these the
    # KLs rest at 19 nats, and on CIFAR-10 at 33, by the formula of docs/soft_intro_vae.md
    "s": 1 / 1024,  # 1 / number of values of an image
    "beta_rec": 1.0,
    "beta_kl": 1.0,
    "beta_neg": (128.0,),
}
NARROW = {
    "fashion_mnist/narrow": Setting("fashion_mnist", NARROW_OPTIONS, pad=2),
    "cifar10/narrow": Setting(
        "cifar10", NARROW_OPTIONS | {"flip": True, "s": 1 / 3072, "beta_neg": (256.0,)}
    ),
}
SETTINGS = PUBLISHED | NARROW


def suffix(setting: Setting) -> str:
    """Returns what a narrow net adds to the name of a protocol: nothing at the published size."""
    if not setting.is_narrow:
        return ""
    names = ("start_channels", "max_channels", "level_steps")
    start, limit, steps = (setting.options[name] for name in names)
    rec, (neg,) = setting.options["beta_rec"], setting.options["beta_neg"]
    return (
        f", channels {start} to {limit}, {steps:,} steps each of 8, 16 and 32 pixels, "
        f"beta_rec {rec:g}, beta_neg {neg:g}"
    )


def protocols(setting: Setting) -> tuple[Protocol, ...]:
    """Returns the protocols of Fréchet distances."""
    return (OFFLINE,) if setting.is_narrow else (STYLE, OFFLINE._replace(reals=None))
