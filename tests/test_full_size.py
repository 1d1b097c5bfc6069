"""Full-size runs, started by `make torture`. Each needs the real data and is skipped without it."""

import statistics

import pytest

from experiments.vae import cells
from jaxvae import data
from jaxvae.errors import UserError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("name", "paper", "tolerance"), [("mnist", 107.73, 1.0), ("fashion_mnist", 241.06, 1.5)])
def test_vanilla_vae_reaches_the_published_loss(name, paper, tolerance):
    try:
        data.load(name, "test")
    except UserError as error:
        pytest.skip(str(error))
    losses = [cells.run(name, seed, smoke=False)[0].value for seed in range(3)]
    assert abs(statistics.mean(losses) - paper) <= tolerance
