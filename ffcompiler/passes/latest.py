"""``latest``: for every element of a tensor, the last step whose write it can depend on; -1 for none.

Abstract interpretation of a graph, one small rule per operator (`rules.py`). Arrays are integers of the tensor's rank
in which a dimension along which all entries agree may have size 1, so a batch costs nothing. An operator without a rule
gives "depends on everything that its inputs depend on", which is always sound. Of an operator with several results each
has its own ``latest``, under ``name.0, name.1, ...``; under ``name`` stands the largest of all.

A rule may use that 0 times x is 0, which holds for finite x only: it then emits the premise that its operand is finite,
and the run checks it (`docs/theory.md`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..graph import Graph, Node, Ref, Step, TensorType
from ..plan import Bounded, Finite, NoNegativeZero, Unchanged, ZeroPattern
from ..proof import Latest
from ..signatures import complete
from .ranges import Range

NEVER = np.int32(-1)


@dataclass(slots=True)
class Interpretation:
    """State of the analysis: ``latest`` by value name, the constants that zero patterns are taken from, premises."""

    latest: dict[str, Latest]
    types: dict[str, TensorType]
    constants: Mapping[str, Tensor]  # values that do not depend on the loop's state
    rules: Mapping[str, Rule]
    finite: dict[str, Finite] = field(default_factory=dict)
    patterns: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)  # True where not zero
    results: dict[str, tuple[TensorType | None, ...]] = field(default_factory=dict)  # of nodes with several
    use_zeros: bool = True  # whether rules may argue that 0 times a finite value is 0
    bounded: dict[str, Bounded] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)  # constants of which a rule uses every element
    unsigned: dict[str, NoNegativeZero] = field(default_factory=dict)
    signed: set[str] = field(default_factory=set)  # nodes that add what may hold -0: no use is made of their zeros
    nodes: dict[str, Node] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)  # as far as rules asked (`rules/ranges.py`)
    _complete: dict[str, tuple[Node, tuple[Any, ...], bool]] = field(default_factory=dict)

    def run(self, graph: Graph, tables: Mapping[int, int | float] | None = None) -> None:
        """Interpret ``graph``; ``tables`` gives the value of each per-step constant."""
        for node in graph.nodes:
            self.nodes[node.name] = node
            if len(node.types) == 1:
                self.types[node.name] = node.type
            else:
                self.results[node.name] = node.types
            self._keep(node, self._node(node, tables or {}))

    def evaluate(self, node: Node, tables: Mapping[int, int | float], output: int | None) -> Latest:
        """``latest`` of one result of ``node``, from what stands in ``latest`` now; nothing is kept."""
        latest = self._node(node, tables)
        return latest[output or 0] if isinstance(latest, tuple) else latest

    def _node(self, node: Node, tables: Mapping[int, int | float]) -> Latest | tuple[Latest, ...]:
        rule = self.rules.get(node.op)
        if rule is None:
            return self.everything(node)
        args, numbered = self._arguments(node)
        return rule(self, node, _bind(args, tables) if numbered else args)

    def _arguments(self, node: Node) -> tuple[tuple[Any, ...], bool]:
        """All arguments of a node, and whether some are per-step constants; a tail asks once for each step."""
        known = self._complete.get(node.name)
        if known is None or known[0] is not node:
            args = complete(node.op, node.args, dict(node.kwargs))
            known = self._complete[node.name] = node, args, any(node.steps())
        return known[1:]

    def _keep(self, node: Node, latest: Latest | tuple[Latest, ...]) -> None:
        if isinstance(latest, tuple):
            self.latest |= {Ref(node.name, output).key: part for output, part in enumerate(latest)}
            latest = self.everything(node)
        self.latest[node.name] = latest

    def of(self, arg: Any) -> Latest:
        """``latest`` of an argument: a constant depends on nothing."""
        if not isinstance(arg, Ref):
            return np.full((), NEVER, np.int32)
        latest = self.latest.get(arg.key)
        if latest is None:  # one of several results, of an operator without a rule or from before the loop
            latest = self.latest.get(arg.name, np.full((), NEVER, np.int32)).reshape((1,) * len(self.shape(arg)))
        return latest

    def everything(self, node: Node) -> Latest:
        """Every element depends on all that any input element depends on."""
        last = max((int(self.of(ref).max(initial=-1)) for ref in node.refs()), default=-1)
        rank = len(node.type.shape) if len(node.types) == 1 else 0
        return np.full((1,) * rank, last, np.int32)

    def shape(self, arg: Ref) -> tuple[int, ...]:
        return self.type(arg).shape

    def type(self, arg: Ref) -> TensorType:
        if arg.output is None:
            return self.types[arg.name]
        kind = self.results[arg.name][arg.output] if arg.name in self.results else None
        if kind is None:  # from before the loop
            t = self.constants[arg.key]
            return TensorType(str(t.dtype).removeprefix("torch."), tuple(t.shape), tuple(t.stride()))
        return kind

    def is_constant(self, arg: Any) -> bool:
        """Whether an argument does not depend on the loop's state."""
        return not isinstance(arg, Ref) or bool((self.of(arg) < 0).all())

    def nonzero(self, arg: Ref) -> npt.NDArray[np.bool_]:
        """Where a constant is not zero; the run checks that it stays zero elsewhere. True where that is not known."""
        if not self.use_zeros or arg.key not in self.constants:
            return np.ones(self.shape(arg), np.bool_)
        if arg.key not in self.patterns:
            self.patterns[arg.key] = (self.constants[arg.key] != 0).cpu().numpy()
        return self.patterns[arg.key]

    def cut(self, weight: Ref, state: Ref, node: Node, added: Any = None) -> npt.NDArray[np.bool_]:
        """Where a constant factor of ``state`` is not zero, in a sum of products that leaves out the other terms.

        ``added``: what else the sum has. That ``state`` is finite and ``added`` holds no -0 become premises.
        """
        if not self.may_cut(added, node):
            return np.ones(self.shape(weight), np.bool_)
        nonzero = self.nonzero(weight)
        if not nonzero.all():
            self.require_finite(state, node)
            self.require_no_negative_zero(added, node)
        return nonzero

    def may_cut(self, added: Any, node: Node) -> bool:
        """Whether a product with zero may be left out of a sum with ``added``."""
        if not self.use_zeros:
            return False
        if signed := self.has_negative_zero(added):
            self.signed.add(node.name)
        return not signed

    def has_negative_zero(self, added: Any) -> bool:
        """Whether what is added to a sum may hold -0: then the sign of a zero product would show in the sum.

        Of a constant it is looked at, now and in every call; of what depends on the state nothing is known.
        """
        if not isinstance(added, Ref) or not _has_signed_zeros(self.type(added).dtype):
            return False
        values = self.constants.get(added.key)
        return values is None or values.is_complex() or bool(((values == 0) & values.signbit()).any())

    def require_no_negative_zero(self, added: Any, node: Node) -> None:
        """The premise that what is added to a sum holds no -0, which is known of it now."""
        if isinstance(added, Ref) and _has_signed_zeros(self.type(added).dtype):
            self.unsigned.setdefault(added.key, NoNegativeZero(added.key, node.op, node.source))

    def require_finite(self, arg: Ref, node: Node) -> None:
        self.finite.setdefault(arg.key, Finite(arg.key, node.op, node.source))

    def require_below(self, bound: float, arg: Ref, node: Node) -> None:
        """The premise that every element of ``arg`` is smaller than ``bound`` in magnitude."""
        known = self.bounded.get(arg.key)
        if known is None or bound < known.bound:
            self.bounded[arg.key] = Bounded(arg.key, float(bound), node.op, node.source)

    def is_known(self, arg: Any) -> bool:
        """Whether the elements of a tensor can be looked at: those of a constant."""
        return isinstance(arg, Ref) and self.use_zeros and arg.key in self.constants and self.is_constant(arg)

    def mask(self, arg: Ref) -> npt.NDArray[Any]:
        """The elements of a known tensor; the run checks that they stay what they are."""
        if arg.key not in self.masks:
            self.masks[arg.key] = self.constants[arg.key].detach().clone()
        return self.peek(arg)

    def peek(self, arg: Ref) -> npt.NDArray[Any]:
        """The elements of a known tensor, floats as float64, for a look that nothing rests on."""
        values = self.constants[arg.key].detach().cpu()
        return np.asarray((values.double() if values.dtype.is_floating_point else values).numpy())


Rule: TypeAlias = Callable[[Interpretation, Node, tuple[Any, ...]], Latest | tuple[Latest, ...]]
"""``rule(it, node, args)``: ``latest`` of the result, or of each result of an operator that has several.

``args`` are all arguments in the order of the operator's schema, those that were named or left out too, with numbers in
place of per-step constants.
"""


def _has_signed_zeros(dtype: str) -> bool:
    kind: torch.dtype = getattr(torch, dtype)
    return kind.is_floating_point or kind.is_complex


def _bind(arg: Any, tables: Mapping[int, int | float]) -> Any:
    if isinstance(arg, tuple):
        return tuple(_bind(a, tables) for a in arg)
    return tables[arg.table] if isinstance(arg, Step) else arg


def zero_pattern(name: str, nonzero: npt.NDArray[np.bool_]) -> ZeroPattern:
    """The premise that ``name`` stays zero where it is zero now."""
    return ZeroPattern(name, int((~nonzero).sum()), nonzero.size, pattern_digest(nonzero))


def pattern_digest(nonzero: npt.NDArray[np.bool_]) -> str:
    return hashlib.sha256(str(nonzero.shape).encode() + np.packbits(nonzero).tobytes()).hexdigest()


def mask_premise(name: str, mask: Tensor) -> Unchanged:
    """The premise that ``name`` stays what it is now."""
    content = mask.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    kind = f"{mask.dtype} {tuple(mask.shape)} ".encode()
    return Unchanged(name, hashlib.sha256(kind + content).hexdigest())
