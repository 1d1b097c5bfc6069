"""The benchmark of the Soft-IntroVAE step: a tiny one runs, and PyTorch's is of the same nets."""

import numpy as np
import pytest

from benchmarks import measure, soft_intro

X = np.random.default_rng(0).random((4, *soft_intro.SHAPE), dtype=np.float32)


def test_the_published_nets_are_measured():
    assert soft_intro.parameters(1) == soft_intro.PARAMETERS == 3_382_848 + 2_382_531


@pytest.mark.slow
def test_a_tiny_step_runs_and_counts_its_work():
    step, flops = soft_intro.ours(X, 64)
    values = [float(step()["squared_error"]) for _ in range(2)]
    assert flops > 1e6 and np.isfinite(values).all() and values[0] != values[1]
    measure.wait_for(step())


def test_pytorchs_nets_are_the_same():
    torch = pytest.importorskip("torch")
    encoder, decoder = soft_intro.torch_nets(1)
    have = [sum(p.numel() for p in net.parameters()) for net in (encoder, decoder)]
    assert have == [3_382_848, 2_382_531]
    step = soft_intro.torch_step(X, 64, fused=False, compiled=False)
    assert np.isfinite(step().item())
    encoder, decoder = soft_intro.torch_nets(64)
    x = torch.zeros(2, 3, 32, 32)
    assert encoder(x).shape == (2, 256) and decoder(torch.zeros(2, 128)).shape == x.shape
