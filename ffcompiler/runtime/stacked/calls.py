"""The calls of a level on memory that is there: a level of small tensors takes as long as it takes to call it.

What is kept has a row of memory for each level; results that only the level itself reads have memory that all levels
share; and parts of either are cut before the first level. So what is left to do in a level is to compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from ...graph import Node, Ref
from ..direct import DIRECT
from ..graphs import argument
from ..plain import plain
from ..watch import Watch, look
from .level import Level

INTO: Mapping[str, Any] = {
    **DIRECT,
    "aten.addcmul.default": torch.addcmul,
    "aten.baddbmm.default": torch.baddbmm,
    "aten.stack.default": torch.stack,
}
"""Operators that can write into memory that is there, and whose result is never a view."""


@dataclass(slots=True)
class LevelCalls:
    """``calls(env, ..)`` makes all levels of a window; threads may share it.

    ``function`` takes the values that `inputs` name, first those that are the same in all levels.
    """

    level: Level
    device: torch.device
    fixed: list[str] = field(init=False)
    rows: list[str] = field(init=False)
    tables: tuple[int, ...] = field(init=False)
    function: Callable[..., None] = field(init=False)
    kinds: dict[str, str] = field(init=False)
    own_row: dict[str, int] = field(init=False)  # operators that write a kept value: which
    views: set[str] = field(init=False)  # cut before the first level
    copied: list[int] = field(init=False)  # kept values that are copied to their rows

    def __post_init__(self) -> None:
        self._sort()
        self._generate()

    def _sort(self) -> None:
        """Which operators are made in every level, and where their results are."""
        level, own = self.level, {node.name for node in self.level.graph.nodes}
        self.kinds = dict.fromkeys((*level.past, *level.given), "row")
        self.own_row, self.views = {}, set()
        writers = {ref.name: j for j, ref in reversed(list(enumerate(level.graph.outputs))) if ref.output is None}
        for node in level.graph.nodes:
            read = {self.kinds.get(ref.name, "fixed") for ref in node.refs()}
            if node.op in _CUTS and "new" not in read and _CUTS[node.op](node):
                self.kinds[node.name] = "row" if "row" in read else "fixed"
                self.views.add(node.name)
            elif node.op in INTO and len(node.types) == 1 and not any(node.steps()):
                self.kinds[node.name] = "row" if node.name in writers else "fixed"
                if node.name in writers:
                    self.own_row[node.name] = writers[node.name]
            else:
                self.kinds[node.name] = "new"
        outputs = enumerate(level.graph.outputs)
        self.copied = [j for j, ref in outputs if ref.name not in own or self.own_row.get(ref.name) != j]

    def _generate(self) -> None:
        """The code of one level."""
        out = fx.Graph()
        value: dict[Any, Any] = {}
        made = [node for node in self.level.graph.nodes if node.name not in self.views]
        names = dict.fromkeys(ref.key for node in made for ref in node.refs() if self._given(ref))
        names |= dict.fromkeys(
            self.level.graph.outputs[j].key for j in self.copied if self._given(self.level.graph.outputs[j])
        )
        names |= dict.fromkeys(node.name for node in made if self.kinds[node.name] != "new")
        self.fixed = [name for name in names if self.kinds.get(name, "fixed") == "fixed"]
        self.rows = [name for name in names if self.kinds.get(name, "fixed") == "row"]
        self.tables = tuple(sorted({step.table for node in made for step in node.steps()}))
        for name in (*self.fixed, *self.rows):
            ref = Ref.of(name)
            value[ref.name, ref.output] = out.placeholder(name.replace(".", "_"))
        kept = [out.placeholder(f"kept{j}") for j in self.copied]
        for table in self.tables:
            value[table] = out.placeholder(f"step{table}")
        for node in made:
            self._add(out, node, value)
        for j, row in zip(self.copied, kept, strict=True):
            ref = self.level.graph.outputs[j]
            out.call_method("copy_", (row, value[ref.name, ref.output]))
        out.output(None)
        self.function = fx.GraphModule(torch.nn.Module(), out).forward

    def _given(self, ref: Ref) -> bool:
        return self.kinds.get(ref.name, "fixed") != "new"

    def _add(self, out: fx.Graph, node: Node, value: dict[Any, Any]) -> None:
        args = tuple(argument(a, self.device, value) for a in node.args)
        kwargs = {k: argument(v, self.device, value) for k, v in node.kwargs}
        if self.kinds[node.name] != "new":
            out.call_function(INTO[node.op], args, {**kwargs, "out": value[node.name, None]})
            return
        made = out.call_function(plain(node), args, kwargs)
        value[node.name, None] = made
        for index in range(len(node.types) if len(node.types) > 1 else 0):
            value[node.name, index] = out.call_function(_item, (made, index))

    # ------------------------------------------------------------------------------------------ a window

    def __call__(
        self,
        env: Mapping[str, Tensor],
        start: Sequence[Tensor],
        given: Mapping[str, Tensor],
        numbers: Sequence[Sequence[int | float]],
        count: int,
        watch: Watch | None,
    ) -> list[Tensor]:
        """All levels: of each kept value its rows, ``[count, ..]``.

        ``start``: what is kept before the first level; ``given``: what is known ahead, ``[count, ..]``.
        """
        lag, level = self.level.lag, self.level
        kept = [torch.empty((lag + count, *first.shape), dtype=first.dtype, device=first.device) for first in start]
        for whole, first in zip(kept, start, strict=True):
            whole[: lag + 1] = first
        wholes = dict(given) | {
            name: kept[j][lag - back : lag - back + count] for name, (j, back) in level.past.items()
        }
        wholes |= {name: kept[j][lag:] for name, j in self.own_row.items()}
        fixed = self._memory(env, wholes)
        columns = [wholes[name].unbind(0) for name in self.rows] + [kept[j][lag:].unbind(0) for j in self.copied]
        same = [fixed[name] for name in self.fixed]
        function, held = self.function, self._held(kept, start)
        for v, row in enumerate(zip(*columns, *numbers, strict=True)):
            function(*same, *row)
            if v + 1 < level.depth:
                held(v)
            look(watch)
        return [whole[lag:] for whole in kept]

    def _memory(self, env: Mapping[str, Tensor], wholes: dict[str, Tensor]) -> dict[str, Any]:
        """What is the same in all levels, by making the first one: and the parts of rows, in ``wholes``."""
        fixed: dict[Any, Any] = dict(env)
        for node in self.level.graph.nodes:
            kind = self.kinds[node.name]
            if node.name in self.views and kind == "row":
                base = next(node.refs())
                wholes[node.name] = _inside(node, wholes[base.key])
            elif kind == "fixed" or node.name not in wholes:
                made = self._first(node, fixed, wholes)
                fixed |= (
                    {node.name: made}
                    if isinstance(made, Tensor)
                    else {f"{node.name}.{k}": t for k, t in enumerate(made)}
                )
        return fixed

    def _first(self, node: Node, fixed: Mapping[str, Any], wholes: Mapping[str, Tensor]) -> Any:
        """What an operator makes in the first level: the numbers of a step do not matter, its memory does."""
        value: dict[Any, Any] = {
            (ref.name, ref.output): wholes[ref.key][0] if ref.key in wholes else fixed[ref.key] for ref in node.refs()
        }
        value |= {step.table: 0 for step in node.steps()}
        args = [argument(a, self.device, value) for a in node.args]
        return plain(node)(*args, **{k: argument(v, self.device, value) for k, v in node.kwargs})

    def _held(self, kept: Sequence[Tensor], start: Sequence[Tensor]) -> Callable[[int], None]:
        """Puts layers that begin later than a level back to the first state."""
        lag = self.level.lag

        def held(v: int) -> None:
            for whole, first, of in zip(kept, start, self.level.kept, strict=True):
                begun = sum(1 for _, stage in of.members if stage <= v)
                if begun == len(of.members):
                    continue
                if of.packed:
                    whole[lag + v, begun:] = first[begun:]
                else:
                    whole[lag + v] = first

        return held


def _item(made: Any, index: int) -> Any:
    return made[index]


def _plain_dims(node: Node) -> bool:
    """Whether dimensions are counted from the front, so that rows have them one further in."""
    return not node.kwargs and all(isinstance(arg, int) and arg >= 0 for arg in node.args[1:])


_CUTS: Mapping[str, Callable[[Node], bool]] = {
    f"aten.{name}": _plain_dims
    for name in ("narrow.default", "select.int", "unsqueeze.default", "transpose.int", "squeeze.dim")
}
"""Views that can be cut out of all rows at once."""


def _inside(node: Node, whole: Tensor) -> Tensor:
    """A part of every row."""
    first = [arg for arg in node.args[1:] if isinstance(arg, int)]
    match node.op:
        case "aten.narrow.default":
            return whole.narrow(first[0] + 1, first[1], first[2])
        case "aten.select.int":
            return whole.select(first[0] + 1, first[1])
        case "aten.unsqueeze.default":
            return whole.unsqueeze(first[0] + 1)
        case "aten.squeeze.dim":
            return whole.squeeze(first[0] + 1)
    return whole.transpose(first[0] + 1, first[1] + 1)
