"""Protocols of Fréchet and kernel distances: all that a number depends on beside the images."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from jaxvae.errors import UserError, check_count, unknown
from jaxvae.metrics import inception, squeezenet


class Extractor(NamedTuple):
    """A net whose features are compared."""

    weights: str  # a key of `weights.KNOWN`
    dimension: int
    side: int  # pixels of the images that it takes
    # of bilinear resizing: torch's (align_corners=False); else TensorFlow 1's, from a corner
    half_pixels: bool
    shift: tuple[float, ...]  # taken from pixels in [0, 255]
    scale: tuple[float, ...]  # what they are then divided by
    features: Callable  # (params, x [B, side, side, 3], stats=) -> [B, dimension]
    from_state_dict: Callable
    about: str


EXTRACTORS = {
    "inception": Extractor(
        "inception",
        inception.DIMENSION,
        inception.SIDE,
        True,
        (127.5,),
        (127.5,),
        inception.features,
        inception.from_state_dict,
        "Inception-v3 pool3 (2048), resized as pytorch-fid does",
    ),
    "inception-tf": Extractor(
        "inception",
        inception.DIMENSION,
        inception.SIDE,
        False,
        (128.0,),
        (128.0,),
        inception.features,
        inception.from_state_dict,
        "Inception-v3 pool3 (2048), resized as TensorFlow's graph of 2015-12-05 does",
    ),
    "squeezenet": Extractor(
        "squeezenet",
        squeezenet.DIMENSION,
        128,
        True,
        tuple(255 * m for m in squeezenet.MEAN),
        tuple(255 * s for s in squeezenet.STD),
        squeezenet.features,
        squeezenet.from_state_dict,
        "SqueezeNet 1.1 features.12, averaged over places (512), images resized to 128x128 pixels; "
        "never comparable with a FID, which is Inception's",
    ),
}
GENERATORS = ("running", "batch", "reestimated", "reestimated-samples")
PIXELS = {
    "round": "bytes, rounded",
    "truncate": "bytes, truncated",
    "float": "255 x, not rounded",
    "stretch": "each image stretched to 0...255 by its own minimum and maximum, not rounded (real "
    "images are not)",
}


class Protocol(NamedTuple):
    """How a distance is measured.

    A changed one (`_replace`) says so in its `label`, so that results never mix.
    """

    name: str
    extractor: Literal["inception", "inception-tf", "squeezenet"]
    samples: int = 10_000  # images that are generated
    split: str = "test"  # real images
    reals: int | None = None  # how many of them; None: the whole split
    order: Literal["first", "shuffled"] = "first"  # which of them
    # what becomes of generated x in [0, 1]
    pixels: Literal["round", "truncate", "float", "stretch"] = "round"
    # BatchNorm of the generator: averages, moments of each batch, or averages re-estimated over
    # training data or, in the decoder, over samples
    generator: Literal["running", "batch", "reestimated", "reestimated-samples"] = "running"
    features: Literal["running", "batch"] = "running"  # the same of the extractor
    batch_size: int | None = None  # where batches matter; None: any

    @property
    def label(self) -> str:
        """The name, and in brackets whatever is not as that name says."""
        named = PROTOCOLS.get(self.name)
        usual = Protocol._field_defaults if named is None else named._asdict()
        changed = [
            f"{key}={value}"
            for key, value in self._asdict().items()
            if key != "name" and value != usual.get(key)
        ]
        return f"{self.name}({','.join(changed)})" if changed else self.name

    def describe(self) -> str:
        """Returns what is measured, in one line."""
        reals = f"{self.order} {self.reals:,} of" if self.reals else "all of"
        modes = f"BatchNorm in the generator: {self.generator}, in the extractor: {self.features}"
        batch = f", batches of {self.batch_size}" if self.batch_size else ""
        return (
            f"{self.label}: {self.samples:,} samples against {reals} {self.split}; "
            f"{EXTRACTORS[self.extractor].about}; {PIXELS[self.pixels]}; "
            f"grey images as three equal channels; {modes}{batch}"
        )

    def with_samples(self, n: int) -> "Protocol":
        """Returns the protocol with n samples, and at most n real images if it counts those."""
        return self._replace(samples=n, reals=self.reals and min(n, self.reals))


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # pytorch-fid on saved images, as most papers report
        Protocol("standard", "inception", 50_000, "train"),
        # Two-Stage VAE, fid_score.py
        Protocol(
            "two-stage-released", "inception-tf", 10_000, "test", 10_000, "shuffled", "stretch"
        ),
        # Are GANs Created Equal?, compare_gan v1.0: the GAN rows of the Two-Stage VAE's table
        Protocol("lucic-2018", "inception-tf", 10_000, "test", 10_000, "first", "float"),
        # Soft-IntroVAE's image model, whose two nets are left in training mode
        Protocol(
            "soft-intro-released",
            "inception",
            50_000,
            "train",
            50_000,
            "shuffled",
            "truncate",
            "batch",
            "batch",
            32,
        ),
        # ours, without Inception's weights
        Protocol("squeezenet", "squeezenet", 10_000, "test", 10_000),
    )
}


def checked(protocol: "Protocol | str | None") -> Protocol:
    """Returns a protocol from its name or itself.

    Raises:
        UserError: for none, an unknown one, and impossible settings.
    """
    if protocol is None:
        raise UserError(
            "a FID or KID needs a protocol, without which it compares with nothing. Choose from: "
            f"{', '.join(PROTOCOLS)}."
        )
    if not isinstance(protocol, Protocol):
        if protocol not in PROTOCOLS:
            raise unknown("protocol", protocol, PROTOCOLS)
        protocol = PROTOCOLS[protocol]
    for name, choices in (
        ("extractor", EXTRACTORS),
        ("pixels", PIXELS),
        ("order", ("first", "shuffled")),
        ("generator", GENERATORS),
        ("features", ("running", "batch")),
    ):
        if getattr(protocol, name) not in choices:
            raise unknown(f"{name} of a protocol", getattr(protocol, name), choices)
    check_count("samples", protocol.samples, least=2)
    for name in ("reals", "batch_size"):
        if getattr(protocol, name) is not None:
            check_count(name, getattr(protocol, name), least=2)
    return protocol
