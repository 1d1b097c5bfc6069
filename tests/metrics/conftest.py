"""What the tests of distances share."""

from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).with_name("reference.npz")


@pytest.fixture
def smaller(monkeypatch):
    """SqueezeNet with smaller images and every 16th feature, so that tests are quick."""
    import distances
    from jaxvae.metrics import protocols

    small = {"side": 32, "dimension": distances.D, "features": distances.some}
    extractor = protocols.EXTRACTORS["squeezenet"]._replace(**small)
    monkeypatch.setitem(protocols.EXTRACTORS, "squeezenet", extractor)


@pytest.fixture(scope="module")
def reference():
    """What torch's own modules give for the same weights (make_feature_reference.py)."""
    with np.load(FILE, allow_pickle=False) as archive:
        return dict(archive)
