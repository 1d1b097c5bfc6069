"""Protocols: those of the papers, what a changed one is called, what is none."""

import pytest

from distances import SQUEEZENET, go, sampler, source
from jaxvae.errors import UserError
from jaxvae.metrics import fid

pytestmark = pytest.mark.usefixtures("smaller")


def test_protocols_are_those_of_their_papers():
    p = fid.PROTOCOLS
    assert [
        (
            name,
            x.extractor,
            x.samples,
            x.split,
            x.reals,
            x.order,
            x.pixels,
            x.generator,
            x.features,
            x.batch_size,
        )
        for name, x in p.items()
    ] == [
        (
            "standard",
            "inception",
            50_000,
            "train",
            None,
            "first",
            "round",
            "running",
            "running",
            None,
        ),
        (
            "two-stage-released",
            "inception-tf",
            10_000,
            "test",
            10_000,
            "shuffled",
            "stretch",
            "running",
            "running",
            None,
        ),
        (
            "lucic-2018",
            "inception-tf",
            10_000,
            "test",
            10_000,
            "first",
            "float",
            "running",
            "running",
            None,
        ),
        (
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
        (
            "squeezenet",
            "squeezenet",
            10_000,
            "test",
            10_000,
            "first",
            "round",
            "running",
            "running",
            None,
        ),
    ]
    for name, protocol in p.items():
        assert protocol.label == name and protocol.describe().startswith(f"{name}: ")
        assert ("never comparable with a FID" in protocol.describe()) == (name == "squeezenet")


def test_a_changed_protocol_says_so():
    standard = fid.PROTOCOLS["standard"]
    assert (
        standard._replace(samples=5000, split="test").label == "standard(samples=5000,split=test)"
    )
    assert standard.with_samples(500).label == "standard(samples=500)"
    assert "500 samples against all of train" in standard.with_samples(500).describe()
    assert fid.PROTOCOLS["squeezenet"].with_samples(20_000).label == "squeezenet(samples=20000)"
    assert standard._replace(name="mine").label.startswith(
        "mine(extractor=inception,samples=50000,split=train"
    )
    assert (
        go(source()._replace(split="all"))["fid"].protocol
        == "squeezenet(samples=90,split=all,reals=90)"
    )


@pytest.mark.parametrize(
    "protocol,message",
    [
        (None, "needs a protocol, without which it compares with nothing. Choose from: standard,"),
        ("standrad", "unknown protocol 'standrad'. Did you mean 'standard'"),
        (SQUEEZENET._replace(pixels="rounded"), "unknown pixels of a protocol 'rounded'"),
        (SQUEEZENET._replace(samples=1), "samples must be at least 2"),
        (
            SQUEEZENET._replace(reals=100),
            r"asks for 100 real images, mine test has 90: use another split",
        ),
    ],
)
def test_protocols_that_do_not_exist(protocol, message):
    with pytest.raises(UserError, match=message):
        go(protocol=protocol)
    for function in (fid.fid, fid.kid):
        with pytest.raises(UserError, match="needs a protocol"):
            function(source(), sampler)
