"""Gradients on a CPU where oneDNN would write beyond its memory; what may crash has a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semipose.models.backbones.light import LightSettings
from semipose.models.heads.pyramid import PyramidSettings
from semipose.models.net import NetSettings, build_net
from semipose.models.strided_convolutions import PixelsFirst, take_pixels_first

ROOT = Path(__file__).resolve().parents[2]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
THREE_STEPS = """
import sys, torch
from semipose.models.strided_convolutions import take_pixels_first

torch.set_num_threads(2)
layer = torch.nn.Conv2d(4, 12, 1, stride=2, bias=False)
net = torch.nn.Sequential(layer).to(memory_format=getattr(torch, sys.argv[1]))
take_pixels_first(net)
optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
for _ in range(3):
    images = torch.randn(7, 4, 64, 48).to(memory_format=torch.channels_last)
    optimizer.zero_grad()
    net(images).square().mean().backward()
    # The same convolution as a matrix product in float64, which oneDNN has no part in.
    pixels = images[..., ::2, ::2].permute(0, 2, 3, 1).reshape(-1, 4).double()
    matrix = layer.weight.detach().view(12, 4).double().requires_grad_()
    (pixels @ matrix.T).square().mean().backward()
    torch.testing.assert_close(layer.weight.grad.view(12, 4).double(), matrix.grad, rtol=1e-4, atol=1e-6)
    optimizer.step()
print("trained")
"""


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["channels_last", "contiguous_format"])
@pytest.mark.parametrize("instructions", ["DEFAULT", "AVX2"])
def test_an_odd_batch_trains_with_two_threads_and_right_gradients(instructions: str, layout: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", THREE_STEPS, layout],
        cwd=ROOT,
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": instructions, "GOMP_SPINCOUNT": "1000"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr[-2000:]


def test_a_network_with_narrow_stages_is_built_with_them() -> None:
    backbone = LightSettings(stem_channels=8, channels=(8, 12, 16), blocks=(1, 1, 1))
    net = build_net(NetSettings(backbone=backbone, head=PyramidSettings(width=8)), 5)
    assert sum(isinstance(module, PixelsFirst) for module in net.modules()) == 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_taking_pixels_first_gives_the_convolution_and_its_gradients(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(3, 5, 1, stride=(2, 3)))
    take_pixels_first(layer)
    assert isinstance(layer[0], PixelsFirst)
    images = torch.randn(3, 3, 17, 14).to(memory_format=layout).requires_grad_()
    copies = [tensor.detach().double().requires_grad_() for tensor in (images, *layer.parameters())]
    expected = F.conv2d(*copies, stride=(2, 3))
    output = layer.to(memory_format=layout)(images)
    seed = torch.randn_like(output)
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer(images), output)
    gradients = torch.autograd.grad(output, (images, *layer.parameters()), seed)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, copies, seed.double()), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)


def test_other_convolutions_stay_as_they_are() -> None:
    layers = nn.ModuleList(
        [
            nn.Conv2d(16, 4, 1, stride=2),
            nn.Conv2d(8, 4, 1),
            nn.Conv2d(8, 4, 3, stride=2),
            nn.Conv2d(8, 4, 1, stride=2, padding=1),
            nn.Conv2d(8, 8, 1, stride=2, groups=8),
            LightSettings().build(),
        ]
    )
    take_pixels_first(layers)
    assert not any(isinstance(module, PixelsFirst) for module in layers.modules())
