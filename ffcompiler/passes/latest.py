"""``latest``: for every element of a tensor, the last step whose write it can depend on; -1 for none.

Abstract interpretation of a graph, one small rule per operator (`rules.py`). Arrays are integers of the tensor's rank
in which a dimension along which all entries agree may have size 1, so a batch costs nothing. An operator without a rule
gives "depends on everything that its inputs depend on", which is always sound.

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
from torch import Tensor

from ..graph import Arg, Graph, Node, Ref, Step, TensorType
from ..plan import Finite, ZeroPattern
from ..proof import Latest

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

    def run(self, graph: Graph, tables: Mapping[int, int | float] | None = None) -> None:
        """Interpret ``graph``; ``tables`` gives the value of each per-step constant."""
        for node in graph.nodes:
            if len(node.types) == 1:
                self.types[node.name] = node.type
            else:
                self.results[node.name] = node.types
            self.latest[node.name] = self._node(node, tables or {})

    def _node(self, node: Node, tables: Mapping[int, int | float]) -> Latest:
        rule = self.rules.get(node.op)
        args = tuple(_bind(a, tables) for a in node.args)
        if rule is None or len(node.types) != 1:
            return self.everything(node)
        return rule(self, node, args)

    def of(self, arg: Any) -> Latest:
        """``latest`` of an argument: a constant depends on nothing."""
        if not isinstance(arg, Ref):
            return np.full((), NEVER, np.int32)
        latest = self.latest[arg.name]
        return latest if arg.output is None else latest.reshape((1,) * len(self.shape(arg)))

    def everything(self, node: Node) -> Latest:
        """Every element depends on all that any input element depends on."""
        last = max((int(self.of(ref).max(initial=-1)) for ref in node.refs()), default=-1)
        rank = len(node.type.shape) if len(node.types) == 1 else 0
        return np.full((1,) * rank, last, np.int32)

    def shape(self, arg: Ref) -> tuple[int, ...]:
        kind = self.types[arg.name] if arg.output is None else self.results[arg.name][arg.output]
        assert kind is not None
        return kind.shape

    def is_constant(self, arg: Any) -> bool:
        return isinstance(arg, Ref) and arg.name in self.constants and bool((self.of(arg) < 0).all())

    def nonzero(self, arg: Ref) -> npt.NDArray[np.bool_]:
        """Where a constant is not zero; the run checks that it stays zero elsewhere."""
        if not self.use_zeros:
            return np.ones(self.shape(arg), np.bool_)
        if arg.name not in self.patterns:
            self.patterns[arg.name] = (self.constants[arg.name] != 0).cpu().numpy()
        return self.patterns[arg.name]

    def require_finite(self, arg: Ref, node: Node) -> None:
        self.finite.setdefault(arg.name, Finite(arg.name, node.op, node.source))


Rule: TypeAlias = Callable[[Interpretation, Node, tuple[Any, ...]], Latest]


def _bind(arg: Arg, tables: Mapping[int, int | float]) -> Any:
    if isinstance(arg, tuple):
        return tuple(_bind(a, tables) for a in arg)
    return tables[arg.table] if isinstance(arg, Step) else arg


def zero_pattern(name: str, nonzero: npt.NDArray[np.bool_]) -> ZeroPattern:
    """The premise that ``name`` stays zero where it is zero now."""
    return ZeroPattern(name, int((~nonzero).sum()), nonzero.size, pattern_digest(nonzero))


def pattern_digest(nonzero: npt.NDArray[np.bool_]) -> str:
    return hashlib.sha256(str(nonzero.shape).encode() + np.packbits(nonzero).tobytes()).hexdigest()
