"""Layers of networks on many steps at once, where each step may have weights of its own: norms and attention.

As the rules of `rules.py`. ``torch.vmap`` would compute some of them step by step (it has no rule for them), and
takes longer for the others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...graph import Node, Ref
from .folds import Call, Shapes, Values


def layer_norm(node: Node, op: Any, types: Shapes, lifted: frozenset[str]) -> Call | None:
    """A layer norm over the last dimensions, by weights that all steps share or by each step's own."""
    of, shape, *affine = node.args
    if not isinstance(of, Ref) or of.key not in lifted or not isinstance(shape, tuple) or node.kwargs:
        return None
    dims, key = list(shape), of.key
    own = [a.key for a in affine if isinstance(a, Ref) and a.key in lifted]
    if not own:
        return lambda values: op(values[key], dims, *(values[a.key] if isinstance(a, Ref) else a for a in affine))
    weight, bias, eps = affine
    ones = (1,) * (len(types[key].shape) - len(dims))

    def spread(arg: Any, values: Values) -> Tensor | None:
        if not isinstance(arg, Ref):
            return None
        t = values[arg.key]
        return t.reshape(t.shape[0], *ones, *t.shape[1:]) if arg.key in lifted else t

    def call(values: Values) -> tuple[Tensor, ...]:
        out, mean, rstd = op(values[key], dims, None, None, eps)
        return _scaled(out, spread(weight, values), spread(bias, values)), mean, rstd

    return call


def _scaled(out: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is None:
        return out if bias is None else out + bias
    return out * weight if bias is None else torch.addcmul(bias, out, weight)


def batch_norm(node: Node, op: Any, types: Shapes, lifted: frozenset[str]) -> Call | None:
    """A batch norm by known statistics: the channels of all steps are channels of one call."""
    of, *stats, momentum, eps = node.args
    kinds = [kind.shape for kind in node.types[1:] if kind is not None]
    if not isinstance(of, Ref) or of.key not in lifted or len(stats) != 4 or kinds != [(0,), (0,)] or node.kwargs:
        return None
    key = of.key

    def call(values: Values) -> tuple[Tensor, ...]:
        x = values[key]
        steps, batch, channels = x.shape[:3]
        given = [_of_all_steps(arg, values, lifted, steps) for arg in stats]
        out = op(x.transpose(0, 1).reshape(batch, steps * channels, *x.shape[3:]), *given, momentum, eps)[0]
        made = out.view(batch, steps, channels, *x.shape[3:]).transpose(0, 1)
        return made, x.new_empty(steps, 0), x.new_empty(steps, 0)

    return call


def _of_all_steps(arg: Any, values: Values, lifted: frozenset[str], steps: int) -> Tensor | None:
    """Numbers of channels, those of one step after those of the other."""
    if not isinstance(arg, Ref):
        return None
    t = values[arg.key]
    return t.reshape(-1) if arg.key in lifted else t.repeat(steps)


def attention(node: Node, op: Any, types: Shapes, lifted: frozenset[str]) -> Call | None:
    """Attention treats the entries of a batch alike: the steps are entries of one batch."""
    names = ("query", "key", "value")
    given = node.args[:3]
    if len(given) < 3 or not all(isinstance(arg, Ref) and len(types[arg.key].shape) == 4 for arg in given):
        return None
    keys = [arg.key for arg in given if isinstance(arg, Ref)]
    options = dict(zip(("dropout_p", "is_causal"), node.args[3:], strict=False)) | dict(node.kwargs)
    mask = options.pop("attn_mask", None)
    if not any(key in lifted for key in keys) or options.get("dropout_p", 0.0) != 0.0:
        return None
    if mask is not None and (not isinstance(mask, Ref) or len(types[mask.key].shape) not in (2, 4)):
        return None
    steps_of = next(key for key in keys if key in lifted)

    def call(values: Values) -> tuple[Tensor, ...]:
        steps, batch = values[steps_of].shape[:2]
        whole = {
            name: _entries(values[key], key in lifted, steps, batch) for name, key in zip(names, keys, strict=True)
        }
        if isinstance(mask, Ref):
            whole["attn_mask"] = _masks(values[mask.key], mask.key in lifted, steps, batch)
        return tuple(t.unflatten(0, (steps, batch)) for t in op(**whole, **options))

    return call


def _entries(t: Tensor, lifted: bool, steps: int, batch: int) -> Tensor:
    """``[steps * batch, ..]``."""
    t = t if lifted else t.expand(steps, *t.shape)
    return t.expand(steps, batch, *t.shape[2:]).flatten(0, 1)


def _masks(mask: Tensor, lifted: bool, steps: int, batch: int) -> Tensor:
    """A mask for each entry; one that is the same for all of them as it is."""
    inner = mask.dim() - lifted
    if not lifted and (inner == 2 or mask.shape[0] == 1):
        return mask
    if inner == 2:
        mask = mask.reshape(*mask.shape[:-2], 1, 1, *mask.shape[-2:])
    return _entries(mask, lifted, steps, batch)


def has_batching_rule(op: Any) -> bool:
    """Whether ``torch.vmap`` does not fall back to a loop over the steps (with a warning for each)."""
    name = op.name()
    kinds = ("FuncTorchBatched", "FuncTorchBatchedDecomposition", "CompositeImplicitAutograd")
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(name, kind) for kind in kinds)
