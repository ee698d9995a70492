"""Cells of recurrent networks as the products and activations that they are made of, for sweeps.

before:  body:  h = gru_cell(x, c, w, u, b, d)
after:   ahead: i = linear(x, w, b)                                  (of all steps one product, once per call)
         body:  s = linear(c, u, d); ... h = addcmul(n, z, c - n)

Single steps run the cell as it is, with its own rounding; what sweeps evaluate for many steps at once rounds otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..graph import Arg, Graph, Node, Ref, TensorType, Value, contiguous
from ..program import Recurrence

ARGUMENTS = ("input", "hx", "w_ih", "w_hh", "b_ih", "b_hh")
"""Of all cells, in order."""


@dataclass(slots=True)
class _Cell:
    """The nodes in place of one cell; all values are of its element type."""

    node: Node
    sizes: tuple[int, ...]  # of the state, without the hidden size
    hidden: int
    nodes: list[Node] = field(default_factory=list)

    def add(self, op: str, *args: Arg, width: int = 1) -> Ref:
        """A node whose last dimension is ``width`` times the hidden size."""
        shape = (*self.sizes, width * self.hidden)
        kind = TensorType(self.node.types[0].dtype, shape, contiguous(shape))  # type: ignore[union-attr]
        name = f"{self.node.name}_{len(self.nodes)}"
        self.nodes.append(Node(name, f"aten.{op}", args, (), (kind,), self.node.source))
        return Ref(name)

    def part(self, of: Ref, start: int, end: int) -> Ref:
        """The gates ``start .. end - 1``."""
        return self.add("slice.Tensor", of, -1, start * self.hidden, end * self.hidden, width=end - start)

    def gates(self, count: int) -> tuple[Ref, Ref]:
        """The products of the input and of the state, which are to be added."""
        given = dict(zip(ARGUMENTS, self.node.args, strict=False)) | dict(self.node.kwargs)
        state = given["hx"][0] if isinstance(given["hx"], tuple) else given["hx"]
        return (
            self.add("linear.default", given["input"], given["w_ih"], given.get("b_ih"), width=count),
            self.add("linear.default", state, given["w_hh"], given.get("b_hh"), width=count),
        )


def _gru(cell: _Cell) -> tuple[Ref, ...]:
    own, state = cell.gates(3)
    both = cell.add("add.Tensor", cell.part(own, 0, 2), cell.part(state, 0, 2), width=2)
    gate = cell.add("sigmoid.default", both, width=2)
    reset, update = cell.part(gate, 0, 1), cell.part(gate, 1, 2)
    new = cell.add("tanh.default", cell.add("addcmul.default", cell.part(own, 2, 3), reset, cell.part(state, 2, 3)))
    return (cell.add("addcmul.default", new, update, cell.add("sub.Tensor", cell.node.args[1], new)),)


def _lstm(cell: _Cell) -> tuple[Ref, ...]:
    own, state = cell.gates(4)
    both = cell.add("add.Tensor", own, state, width=4)
    carried = cell.node.args[1]
    assert isinstance(carried, tuple)
    gate = cell.add("sigmoid.default", cell.part(both, 0, 2), width=2)
    new = cell.add("tanh.default", cell.part(both, 2, 3))
    kept = cell.add("mul.Tensor", cell.part(gate, 1, 2), carried[1])
    memory = cell.add("addcmul.default", kept, cell.part(gate, 0, 1), new)
    out = cell.add("sigmoid.default", cell.part(both, 3, 4))
    return cell.add("mul.Tensor", out, cell.add("tanh.default", memory)), memory


def _plain(activation: str) -> Callable[[_Cell], tuple[Ref, ...]]:
    return lambda cell: (cell.add(activation, cell.add("add.Tensor", *cell.gates(1))),)


CELLS: Mapping[str, Callable[[_Cell], tuple[Ref, ...]]] = {
    "aten.gru_cell.default": _gru,
    "aten.lstm_cell.default": _lstm,
    "aten.rnn_tanh_cell.default": _plain("tanh.default"),
    "aten.rnn_relu_cell.default": _plain("relu.default"),
}


def spelled_out(loop: Recurrence) -> Recurrence:
    """``loop`` without cells: of what they are made of, that which does not read the state is computed ahead."""
    if not any(node.op in CELLS for node in (*loop.ahead.nodes, *loop.body.nodes)):
        return loop
    nodes, renamed = _opened((*loop.ahead.nodes, *loop.body.nodes))
    outputs = tuple(renamed.get(ref, ref) for ref in loop.body.outputs)
    stepped = {given.value.name for given in loop.inputs}
    stateful = {value.name for value in loop.carry}
    parts: tuple[list[Node], list[Node], list[Node]] = (list(loop.invariant.nodes), [], [])
    for node in nodes:
        read = {ref.name for ref in node.refs()}
        if read & stateful:
            stateful.add(node.name)
        elif read & stepped or any(node.steps()):
            stepped.add(node.name)
        parts[2 if node.name in stateful else 1 if node.name in stepped else 0].append(node)
    invariant, ahead, body = _chained(parts, outputs, loop)
    return replace(loop, invariant=invariant, ahead=ahead, body=body)


def _opened(nodes: Sequence[Node]) -> tuple[list[Node], dict[Ref, Ref]]:
    """The nodes without cells, and what stands for the results of those."""
    renamed: dict[Ref, Ref] = {}
    opened: list[Node] = []
    for node in (_with_refs(node, renamed) for node in nodes):
        if node.op not in CELLS or node.types[0] is None:
            opened.append(node)
            continue
        *sizes, hidden = node.types[0].shape
        cell = _Cell(_positional(node), tuple(sizes), hidden)
        made = CELLS[node.op](cell)
        renamed |= {Ref(node.name, i if len(made) > 1 else None): ref for i, ref in enumerate(made)}
        opened += cell.nodes
    return opened, renamed


def _positional(node: Node) -> Node:
    """The two first arguments of a cell by position."""
    named = dict(node.kwargs)
    first = tuple(named.pop(name) for name in ARGUMENTS[len(node.args) : 2])
    return replace(node, args=(*node.args, *first), kwargs=tuple(named.items()))


def _with_refs(node: Node, renamed: Mapping[Ref, Ref]) -> Node:
    if not any(ref in renamed for ref in node.refs()):
        return node

    def new(arg: Arg) -> Arg:
        if isinstance(arg, tuple):
            return tuple(map(new, arg))
        return renamed.get(arg, arg) if isinstance(arg, Ref) else arg

    return replace(node, args=tuple(map(new, node.args)), kwargs=tuple((k, new(v)) for k, v in node.kwargs))


def _chained(parts: Sequence[Sequence[Node]], outputs: tuple[Ref, ...], loop: Recurrence) -> list[Graph]:
    """The three graphs: each hands on what later ones read of it, the last one ``outputs``."""
    graphs: list[Graph] = []
    later: list[Ref] = []
    known = {value.name: value for value in _outside(loop)}
    known |= {n.name: Value(n.name, next(filter(None, n.types))) for part in parts for n in part if any(n.types)}
    for part in reversed(parts):
        own = {node.name for node in part}
        handed = tuple(ref for ref in dict.fromkeys(later) if ref.name in own) if graphs else outputs
        reads = [*(ref for node in part for ref in node.refs()), *handed]
        names = dict.fromkeys(ref.name for ref in reads if ref.name not in own)
        graphs.append(Graph(tuple(known[name] for name in names), tuple(part), handed))
        later += reads
    return graphs[::-1]


def _outside(loop: Recurrence) -> Iterator[Value]:
    for graph in (loop.invariant, loop.ahead, loop.body):
        yield from graph.inputs
