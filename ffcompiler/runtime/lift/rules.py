"""What an operator does to lifted operands, as one plain call: its dimensions are one further in, steps come first.

Each rule gets a node and which of its operands are lifted, and gives a function of the operands' values, or None where
it does not fit the call. What no rule fits goes through ``torch.vmap``, which gives the same and takes longer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...graph import Arg, Node, Ref
from .folds import Call, Shapes, Values, matrix_times, product_of_steps, product_with_matrix, rows_times
from .layers import attention, batch_norm, layer_norm


def plain_call(node: Node, op: Any, types: Shapes, lifted: frozenset[str]) -> Call | None:
    """``op`` on lifted operands as a function of all operands by key; None if no rule fits.

    Numbers that differ from step to step are no matter of these rules.
    """
    rule = RULES.get(node.op)
    if rule is None or any(node.steps()):
        return None
    return rule(node, op, types, lifted)


# ---------------------------------------------------------------------------------------------------- moves


def _first(node: Node, lifted: frozenset[str]) -> str | None:
    """The key of the first operand, if it is lifted and the only tensor."""
    refs = list(node.refs())
    if len(refs) != 1 or not isinstance(node.args[0], Ref) or refs[0].key not in lifted:
        return None
    return refs[0].key


def _rank(key: str, types: Shapes) -> int:
    return len(types[key].shape)


def _shifted(dim: int, rank: int) -> int:
    return dim % max(rank, 1) + 1


def _axes(places: tuple[int, ...], added: int = 0) -> Callable[..., Call | None]:
    """The arguments at ``places`` name dimensions; those of a result that has ``added`` more."""

    def rule(node: Node, op: Any, types: Shapes, lifted: frozenset[str]) -> Call | None:
        key = _first(node, lifted)
        if key is None or (_rank(key, types) == 0 and not added):
            return None
        rank = _rank(key, types) + added
        rest = list(node.args[1:])
        for place in places:
            dims = _moved_in(rest[place - 1] if place <= len(rest) else None, rank)
            if dims is None:
                return None
            rest += [None] * (place - len(rest))
            rest[place - 1] = dims
        kwargs = dict(node.kwargs)
        if any(isinstance(value, Ref | tuple) or type(value).__name__ == "Symbol" for value in kwargs.values()):
            return None
        return lambda values: op(values[key], *rest, **kwargs)

    return rule


def _moved_in(dims: Arg, rank: int) -> Any:
    """One dimension or several, one further in; all of them where none is named. None for anything else."""
    if isinstance(dims, tuple):
        inner = [d for d in dims if isinstance(d, int)]
        return [_shifted(d, rank) for d in inner] if inner else list(range(1, rank + 1))
    if dims is None:
        return list(range(1, rank + 1))
    return _shifted(dims, rank) if isinstance(dims, int) and not isinstance(dims, bool) else None


def _same(node: Node, op: Any, types: Shapes, lifted: frozenset[str]) -> Call | None:
    """A copy is the value itself: graphs are functional."""
    key = _first(node, lifted)
    return None if key is None else lambda values: values[key]


def _reshaped(node: Node, op: Any, types: Shapes, lifted: frozenset[str]) -> Call | None:
    key = _first(node, lifted)
    shape = node.type.shape
    return None if key is None else lambda values: values[key].reshape(values[key].shape[0], *shape)


def _expanded(node: Node, op: Any, types: Shapes, lifted: frozenset[str]) -> Call | None:
    key = _first(node, lifted)
    if key is None:
        return None
    shape = node.type.shape
    ones = (1,) * (len(shape) - _rank(key, types))

    def call(values: Values) -> Tensor:
        t = values[key]
        return t.reshape(t.shape[0], *ones, *t.shape[1:]).expand(t.shape[0], *shape)

    return call


def _permuted(node: Node, op: Any, types: Shapes, lifted: frozenset[str]) -> Call | None:
    key = _first(node, lifted)
    if key is None:
        return None
    rank = _rank(key, types)
    if node.op == "aten.t.default":
        dims = tuple(range(rank))[::-1]
    else:
        given = node.args[1]
        dims = tuple(d % rank for d in given if isinstance(d, int)) if isinstance(given, tuple) else ()
    return lambda values: values[key].permute(0, *(d + 1 for d in dims))


def _transposed(node: Node, op: Any, types: Shapes, lifted: frozenset[str]) -> Call | None:
    key = _first(node, lifted)
    a, b = node.args[1:3]
    if key is None or not isinstance(a, int) or not isinstance(b, int) or not _rank(key, types):
        return None
    rank = _rank(key, types)
    return lambda values: values[key].transpose(_shifted(a, rank), _shifted(b, rank))


def _joined(node: Node, op: Any, types: Shapes, lifted: frozenset[str]) -> Call | None:
    """``cat`` and ``stack``: operands that all steps share are repeated."""
    parts, dim = node.args[0], node.args[1] if len(node.args) > 1 else 0
    if not isinstance(parts, tuple) or not all(isinstance(p, Ref) for p in parts) or not isinstance(dim, int):
        return None
    keys = [p.key for p in parts if isinstance(p, Ref)]
    rank = len(node.type.shape)
    inner = rank - 1 if "stack" in node.op else rank
    if not any(k in lifted for k in keys) or {_rank(k, types) for k in keys} != {inner}:
        return None
    steps = next(k for k in keys if k in lifted)

    def call(values: Values) -> Tensor:
        count = values[steps].shape[0]
        whole = [values[k] if k in lifted else values[k].expand(count, *values[k].shape) for k in keys]
        return op(whole, _shifted(dim, rank))  # type: ignore[no-any-return]

    return call


def _trailing(node: Node, op: Any, types: Shapes, lifted: frozenset[str]) -> Call | None:
    """Operators that count dimensions from the end: the same call."""
    key = _first(node, lifted)
    rest = node.args[1:]
    return None if key is None else lambda values: op(values[key], *map(_plain, rest))


def _looked_up(node: Node, op: Any, types: Shapes, lifted: frozenset[str]) -> Call | None:
    """Rows of a table that all steps share."""
    table, index, *rest = node.args
    if not isinstance(table, Ref) or not isinstance(index, Ref) or table.key in lifted or node.kwargs:
        return None
    return lambda values: op(values[table.key], values[index.key], *rest)


def _plain(arg: Arg) -> Any:
    return list(arg) if isinstance(arg, tuple) else arg


RULES: dict[str, Callable[[Node, Any, Shapes, frozenset[str]], Call | None]] = {
    f"aten.{name}": rule
    for names, rule in {
        "clone.default alias.default detach.default": _same,
        "view.default _unsafe_view.default reshape.default squeeze.default squeeze.dims": _reshaped,
        "unsqueeze.default squeeze.dim": _reshaped,
        "expand.default": _expanded,
        "t.default permute.default": _permuted,
        "transpose.int": _transposed,
        "slice.Tensor select.int narrow.default": _axes((1,)),
        "cat.default stack.default": _joined,
        "sum.dim_IntList mean.dim amax.default amin.default any.dim all.dim any.dims all.dims": _axes((1,)),
        "logsumexp.default _softmax.default _log_softmax.default softmax.int log_softmax.int": _axes((1,)),
        "cumsum.default cumprod.default argmax.default argmin.default flip.default": _axes((1,)),
        "max.dim min.dim unbind.int": _axes((1,)),
        "unsafe_split.Tensor roll.default": _axes((2,)),
        "constant_pad_nd.default": _trailing,
        "native_layer_norm.default": layer_norm,
        "_native_batch_norm_legit_no_training.default": batch_norm,
        "_scaled_dot_product_flash_attention_for_cpu.default": attention,
        "embedding.default": _looked_up,
        "mm.default": product_with_matrix,
        "mv.default": matrix_times,
        "addmm.default linear.default": rows_times,
        "bmm.default": product_of_steps,
    }.items()
    for name in names.split()
}
