"""Weights that every step writes, as ``self.weight.data *= self.mask`` does in ``forward``: written once, before it.

before:  body(w, mask, x) = model(x, w * mask), and w becomes w * mask
after:   prologue u0 = w * mask;  body(u0, x) = model(x, u0)

This is what the loop does if writing again changes nothing: ``(w * mask) * mask`` has the bits of ``w * mask``. It is
tried here on the weights as they are, and again in every call (`runtime/overwrites.py`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from ..errors import CaptureError
from ..graph import EMPTY_GRAPH, Graph, Ref
from ..program import Overwrite
from ..runtime.equality import same_bits
from .facts import tensor_type
from .freeze import Freezer
from .functional import Drawn, Functional, Key, LiteralKey, Replaced
from .record import Carried, Outside


@dataclass(frozen=True, slots=True)
class Overwriting:
    """What was taken out of a body: a graph from weights to the values that are read in their place.

    ``finals[i]`` is the output that the ``i``-th weight holds at the end of each step; the output itself, or the key of
    the weight that it is a plain copy of.
    """

    graph: fx.Graph
    inputs: Mapping[Key, fx.Node]
    finals: tuple[Key, ...]
    written: Mapping[Outside, str]  # the weights, and where they are written
    reads_old: frozenset[Outside]  # those of them that the rest of the body reads as they were


def take_overwrites(
    body: Functional, weights: Mapping[Outside, str], outside_loop: frozenset[Outside]
) -> Overwriting | None:
    """Take what ``body`` writes into ``weights`` (and where) out of it. ``outside_loop``: tensors that are no weights.

    Raises: `CaptureError` where what is written depends on more than weights.
    """
    if not weights:
        return None
    return _Split(body, weights, outside_loop).split()


Named: TypeAlias = tuple[str, Tensor]  # the name of a value in the program, and the value
Name: TypeAlias = Callable[[Key], Named]


@dataclass(frozen=True, slots=True)
class Frozen:
    """What is written before the loop: its graph, and what the body and, afterwards, the epilogue read of it."""

    graph: Graph = EMPTY_GRAPH
    writes: tuple[Overwrite, ...] = ()
    known: Mapping[Key, Named] = field(default_factory=dict)
    after: Mapping[Key, Named] = field(default_factory=dict)


def freeze_overwrites(overwriting: Overwriting | None, name: Name, device: torch.device) -> Frozen:
    """The graph value, tried on the weights as they are.

    Raises: `CaptureError` if writing again changes what steps read.
    """
    if overwriting is None:
        return Frozen()
    inputs = {node.name: name(key) for key, node in overwriting.inputs.items()}
    graph, values = _run(overwriting, inputs, device)
    known: dict[Key, Named] = {
        Replaced(i): (_single(ref), value) for i, (ref, value) in enumerate(zip(graph.outputs, values, strict=True))
    }
    after: dict[Key, Named] = {
        w: known[f] if f in known else name(f) for w, f in zip(overwriting.written, overwriting.finals, strict=True)
    }
    again = {node.name: after.get(key, inputs[node.name]) for key, node in overwriting.inputs.items()}
    same = [same_bits(a, b) for a, b in zip(values, _run(overwriting, again, device)[1], strict=True)]
    copied = [key for key in overwriting.finals if key not in known]  # weights that others are plain copies of
    same += [same_bits(name(key)[1], after.get(key, name(key))[1]) for key in copied]
    writes = []
    for weight, line in overwriting.written.items():
        old, new = name(weight), after[weight]
        if not all(same) or (weight in overwriting.reads_old and not same_bits(old[1], new[1])):
            raise CaptureError(_changes_again(line))
        if tensor_type(old[1]) != tensor_type(new[1]):
            raise CaptureError(_other_type(line, old[1], new[1]))
        writes.append(Overwrite(old[0], Ref(new[0]), line))
    return Frozen(trimmed(graph), tuple(writes), known, after)


def trimmed(graph: Graph) -> Graph:
    """``graph`` without the outputs that are inputs, or there twice: a copy of a weight is that weight."""
    own = {node.name for node in graph.nodes}
    read = {ref.name for node in graph.nodes for ref in node.refs()}
    inputs = tuple(value for value in graph.inputs if value.name in read)
    return Graph(inputs, graph.nodes, tuple(dict.fromkeys(ref for ref in graph.outputs if ref.name in own)))


def joined(first: Graph, then: Graph) -> Graph:
    """Two graphs, neither of which reads the other, as one."""
    return Graph(
        tuple(dict.fromkeys((*first.inputs, *then.inputs))),
        (*first.nodes, *then.nodes),
        tuple(dict.fromkeys((*first.outputs, *then.outputs))),
    )


def _run(
    overwriting: Overwriting, inputs: Mapping[str, Named], device: torch.device
) -> tuple[Graph, tuple[Tensor, ...]]:
    names, tensors = {n: name for n, (name, _) in inputs.items()}, {n: t for n, (_, t) in inputs.items()}
    with torch.no_grad():
        return Freezer("u", device, names, tensors).freeze(overwriting.graph)


def _single(ref: Ref) -> str:
    if ref.output is not None:
        raise CaptureError("a weight is written with one of several results of an operator; split it in two steps")
    return ref.name


def _changes_again(line: str) -> str:
    return (
        f"{line} writes into a tensor that exists outside the loop's state, and writing it again changes it once more: "
        "it is a counter, a statistic, or a scale\n"
        "  keep what changes from step to step in the loop's state; what is the same for all steps can be written "
        "before, once (weight *= mask is captured: done twice it changes nothing)"
    )


def _other_type(line: str, old: Tensor, new: Tensor) -> str:
    return (
        f"{line} writes into a tensor that exists outside the loop's state: it is {tensor_type(old)} and would be "
        f"{tensor_type(new)}\n  write it in its own layout"
    )


class _Split:
    def __init__(self, body: Functional, weights: Mapping[Outside, str], outside_loop: frozenset[Outside]) -> None:
        self.body = body
        self.weights = weights
        self.outside_loop = outside_loop
        self.keys: dict[fx.Node, Key] = {node: key for key, node in body.inputs.items()}
        self.output = next(node for node in body.graph.nodes if node.op == "output")
        outputs: Any = self.output.args[0]
        count = len(outputs) - len(weights)
        self.results: tuple[fx.Node, ...] = tuple(outputs[:count])
        self.finals: tuple[fx.Node, ...] = tuple(outputs[count:])

    def split(self) -> Overwriting:
        moved: dict[fx.Node, None] = {}
        for final, source in zip(self.finals, self.weights.values(), strict=True):
            self._collect(final, source, moved)
        for node in [n for n in self.body.graph.nodes if n.target is operator.getitem and n.args[0] in moved]:
            moved[node] = None
        self.output.args = (self.results,)
        order = [node for node in self.body.graph.nodes if node in moved]
        used = [n for n in order if n in self.finals or any(user not in moved for user in n.users)]
        graph, inputs = self._copied(order, used)
        finals = tuple(Replaced(used.index(f)) if f in used else self.keys[f] for f in self.finals)
        self._cut(order, used)
        reads_old = frozenset(key for key in self.weights if key in self.body.inputs)
        return Overwriting(graph, inputs, finals, self.weights, reads_old)

    def _collect(self, final: fx.Node, source: str, moved: dict[fx.Node, None]) -> None:
        """Everything that ``final`` is made from, down to weights."""
        stack = [final]
        while stack:
            node = stack.pop()
            if node.op == "placeholder":
                self._check_input(node, source)
            elif node not in moved:
                moved[node] = None
                stack += node.all_input_nodes

    def _check_input(self, node: fx.Node, source: str) -> None:
        match self.keys.get(node):
            case LiteralKey():
                return
            case Outside() as key if key not in self.outside_loop:
                return
            case Carried():
                on = "the loop's state"
            case Outside():
                on = "arguments, or on what is computed before the loop"
            case Drawn():
                on = "random numbers"
            case _:
                on = "the step's number"
        raise CaptureError(
            f"{source} writes into a tensor that exists outside the loop's state, and what it writes depends on {on}\n"
            "  clone it first, or return the changed tensor from the loop body: it is a state of the loop"
        )

    def _copied(self, order: Sequence[fx.Node], used: Sequence[fx.Node]) -> tuple[fx.Graph, dict[Key, fx.Node]]:
        """The nodes in ``order`` as a graph of their own with the outputs ``used``."""
        graph = fx.Graph()
        inputs: dict[Key, fx.Node] = {}
        copies: dict[fx.Node, fx.Node] = {}
        read = dict.fromkeys(i for node in order for i in node.all_input_nodes)
        for node in (n for n in read if n.op == "placeholder"):
            copies[node] = inputs[self.keys[node]] = graph.placeholder(f"input{len(inputs)}")
        for node in order:
            copies[node] = graph.node_copy(node, lambda n: copies[n])
        graph.output(tuple(copies[node] for node in used))
        graph.lint()
        return graph, inputs

    def _cut(self, order: Sequence[fx.Node], used: Sequence[fx.Node]) -> None:
        """Let the body read inputs in place of ``used``; drop what it no longer reads."""
        graph, inputs, taken = self.body.graph, self.body.inputs, set(order)
        first = next(iter(graph.nodes))
        for index, node in enumerate(used):
            if all(user in taken for user in node.users):
                continue
            with graph.inserting_before(first):
                inputs[Replaced(index)] = graph.placeholder(f"replaced{index}")
            node.replace_all_uses_with(inputs[Replaced(index)], delete_user_cb=lambda user: user not in taken)
        for node in reversed(order):
            graph.erase_node(node)
        for key, node in [*inputs.items()]:
            if not node.users:
                graph.erase_node(node)
                del inputs[key]
        graph.lint()
