"""The best plain rewrite of a masked model: each mask multiplied into its weight once."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ..zoo.made import MaskedLinear
from ..zoo.pixelcnn import MaskedConv2d


def fold_masks(model: nn.Module) -> nn.Module:
    """The same network without masks, as its user could have written it."""
    copied = copy.deepcopy(model)
    for parent in list(copied.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, MaskedLinear | MaskedConv2d):
                setattr(parent, name, _folded(layer))
    return copied


def _folded(layer: MaskedLinear | MaskedConv2d) -> nn.Module:
    with torch.no_grad():
        weight = layer.weight * layer.mask
    plain: nn.Module
    if isinstance(layer, MaskedLinear):
        plain = nn.Linear(layer.in_features, layer.out_features)
    else:
        assert not isinstance(layer.padding, str)
        shape = (layer.in_channels, layer.out_channels, layer.kernel_size)
        plain = nn.Conv2d(*shape, padding=layer.padding)  # type: ignore[arg-type]
    plain = plain.to(weight.device)
    plain.load_state_dict({"weight": weight, "bias": layer.bias})
    return plain.requires_grad_(False).train(layer.training)
