"""DenseNet-201, the paper's feed-forward network: ``ffc explain ffcompiler.zoo.densenet:classify``.

The names of its parameters are torchvision's, so that published weights load (`load_published`); none are shipped.
Random ones are scaled such that activations keep their size through the layers.

Source: Huang et al., "Densely connected convolutional networks", 2017.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS_201 = (6, 12, 48, 32)
GROWTH = 32
BOTTLENECK = 4
CLASSES = 1000


class DenseLayer(nn.Module):
    """From all features so far, [B, C, H, W], to ``growth`` more."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        inner = BOTTLENECK * growth
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, growth, 3, padding=1, bias=False)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        inner = self.conv1(F.relu(self.norm1(torch.cat(list(features), 1))))
        return cast(Tensor, self.conv2(F.relu(self.norm2(inner))))


class DenseBlock(nn.Module):
    def __init__(self, layers: int, channels: int, growth: int) -> None:
        super().__init__()
        for k in range(layers):
            self.add_module(f"denselayer{k + 1}", DenseLayer(channels + k * growth, growth))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.children():
            features.append(layer(features))
        return torch.cat(features, 1)


class Transition(nn.Module):
    """Half the channels, at half the height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


class DenseNet(nn.Module):
    """Images [B, 3, H, W], H and W at least 32, to logits [B, classes]."""

    def __init__(self, layers: Sequence[int] = LAYERS_201, growth: int = GROWTH, classes: int = CLASSES) -> None:
        super().__init__()
        channels = 2 * growth
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(channels))
        self.features.add_module("relu0", nn.ReLU())
        self.features.add_module("pool0", nn.MaxPool2d(3, stride=2, padding=1))
        for k, count in enumerate(layers):
            self.features.add_module(f"denseblock{k + 1}", DenseBlock(count, channels, growth))
            channels += count * growth
            if k + 1 < len(layers):
                self.features.add_module(f"transition{k + 1}", Transition(channels))
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.features(images))
        pooled = F.adaptive_avg_pool2d(features, (1, 1)).flatten(1)
        return cast(Tensor, self.classifier(pooled))


def random_densenet(
    layers: Sequence[int] = LAYERS_201, growth: int = GROWTH, classes: int = CLASSES, seed: int = 0
) -> DenseNet:
    """A network with random weights, to be evaluated."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DenseNet(layers, growth, classes)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    return model.eval()


_NUMBERED = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


def load_published(model: DenseNet, state: Mapping[str, Tensor]) -> None:
    """Load weights under torchvision's names, also as its files write them (``norm.1`` for ``norm1``)."""
    model.load_state_dict({_NUMBERED.sub(r"\1\2.", name): value for name, value in state.items()})


@cache
def _model() -> DenseNet:
    return random_densenet()


def classify(images: Tensor) -> Tensor:
    """Logits [B, 1000] of images [B, 3, H, W], by a DenseNet-201 with random weights."""
    return cast(Tensor, _model()(images))


def example_inputs() -> tuple[Tensor]:
    """One small image, [1, 3, 64, 64]."""
    return (torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)),)


classify.example_inputs = example_inputs  # type: ignore[attr-defined]
