"""Makes tests/metrics/reference.npz: what pytorch-fid's Inception and torchvision's SqueezeNet give
with seeded weights.

    python tests/make_feature_reference.py

It needs torch, torchvision and pytorch-fid (0.3.0), which the tests do not. The weights are those
of `seeded.state_dict`, drawn name by name over the names and shapes of torch's own modules, so that
the tests can draw them again over ours.
"""

import functools
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np

import seeded

FILE = Path(__file__).parent / "metrics" / "reference.npz"
POINTS = 128  # values kept of each part's output
KEPT = []


@functools.cache
def torch_modules():
    """Returns torch, torchvision.models and pytorch_fid.inception."""
    import torch

    if subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode:
        for name in (
            "nms",
            "qnms",
        ):  # a build without compiled operators, which are not needed here
            KEPT.append(torch.library.Library("torchvision", "FRAGMENT"))
            KEPT[-1].define(f"{name}(Tensor x) -> Tensor")
    import pytorch_fid.inception
    import torchvision

    return torch, torchvision.models, pytorch_fid.inception


def shapes(module) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a module's floating-point state (counters of batches are left out)."""
    return {
        name: tuple(v.shape) for name, v in module.state_dict().items() if v.is_floating_point()
    }


def as_torch(torch, arrays):
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def inception_modules():
    """Returns pytorch-fid's patched net and its whole pipeline, with seeded weights that were
    loaded as it loads its own."""
    torch, _, source = torch_modules()
    blank = source._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    arrays = seeded.state_dict(shapes(blank))
    published = {**blank.state_dict(), **as_torch(torch, arrays)}  # with the counters
    with mock.patch.object(source, "load_state_dict_from_url", return_value=published):
        return torch, source.fid_inception_v3().eval(), source.InceptionV3([3]).eval()


def inception() -> dict[str, np.ndarray]:
    torch, net, pipeline = inception_modules()
    found, kept = {}, {}
    for name, child in net.named_children():
        child.register_forward_hook(
            lambda module, x, y, name=name: kept.__setitem__(name, y.numpy())
        )
    x = torch.from_numpy(seeded.images((2, 3, 299, 299)) * 2 - 1)
    with torch.no_grad():
        logits = net(x)
        found["logits"], found["pool3"] = logits.numpy(), kept["avgpool"][..., 0, 0]
        for name in list(kept):
            if name.startswith(("Conv2d", "Mixed")):
                found[name] = seeded.points(kept[name].transpose(0, 2, 3, 1), POINTS)
        for side in (32, 320):  # made larger, made smaller
            images = torch.from_numpy(seeded.images((2, 3, side, side)))
            found[f"pipeline_{side}"] = pipeline(images)[0][..., 0, 0].numpy()
        pipeline.train()
        images = torch.from_numpy(seeded.images((4, 3, 32, 32)))
        found["batch_statistics"] = pipeline(images)[0][..., 0, 0].numpy()
    return {f"inception/{name}": value for name, value in found.items()}


def squeezenet() -> dict[str, np.ndarray]:
    torch, models, _ = torch_modules()
    net = models.squeezenet1_1(weights=None).features.eval()
    net.load_state_dict(as_torch(torch, seeded.state_dict(shapes(net))))
    found = {}
    with torch.no_grad():
        for side in (64, 67):  # pools that end inside and outside the image
            x = torch.from_numpy(seeded.images((2, 3, side, side)) * 2 - 1)
            for number, part in enumerate(net):
                x = part(x)
                if number:
                    found[f"{side}/{number}"] = seeded.points(x.permute(0, 2, 3, 1).numpy(), POINTS)
            found[f"{side}/pool"] = x.mean((2, 3)).numpy()
    return {f"squeezenet/{name}": value for name, value in found.items()}


if __name__ == "__main__":
    found = {**inception(), **squeezenet()}
    for name, value in found.items():
        print(f"{name:<32} {value.shape!s:<12} mean {value.mean():9.4f} spread {value.std():9.4f}")
    np.savez_compressed(FILE, **found)
    print(f"{FILE}: {FILE.stat().st_size:,} bytes")
