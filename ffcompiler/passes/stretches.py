"""Where the bottlenecks of a graph are: its nodes, in the order in which they were recorded, in stretches.

What matters is how many values are *live* between two nodes: computed before, and read after. Where few are, the graph
is narrow. Between the narrowest places there are *straight* stretches, node after node on one value, and *excursions*:
the value is kept while others are computed from it, until a node joins them again. So

* an excursion is a block: a residual branch with its sum, an attention layer, an inception module;
* an excursion in which everything that is computed is kept for the one join is a *dense stage*: ``x2 = f(x0, x1)``,
  ``x3 = f(x0, x1, x2)``, and the join reads all. Each of its layers is a block, and the join begins what comes next;
* an excursion that holds a chain of its own is looked into (a network between two ends of a long skip);
* a straight stretch that computes products is a joint between two stages; another one ends the block before it;
* the first straight stretch is the stem, the last one the head;
* without excursions each product, with what follows it, is a block.

What is computed from weights alone does not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import pairwise

from ..graph import Graph, Node

PRODUCTS = frozenset(
    {
        *("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "convolution", "addmv", "mv", "addbmm"),
        *("scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu", "gru_cell", "lstm_cell"),
    }
)
"""Operators that a stretch is worth a block for."""
INSIDE = 3
"""An excursion with so many excursions of its own holds a chain."""
DEEPEST = 32
"""Excursions in each other that are looked into."""


class Kind(Enum):
    STEM = auto()
    BLOCK = auto()
    JOINT = auto()
    HEAD = auto()


@dataclass(frozen=True, slots=True)
class Stretch:
    """Nodes that follow each other, by name."""

    kind: Kind
    names: tuple[str, ...]


def stretches(graph: Graph, given: frozenset[str]) -> list[Stretch]:
    """The nodes of ``graph`` that depend on ``given`` values, cut at its bottlenecks."""
    varying = set(given)
    nodes = []
    for node in graph.nodes:
        if any(ref.name in varying for ref in node.refs()):
            varying.add(node.name)
            nodes.append(node)
    profile = _profile(nodes, given)
    pieces = _named(_joined(list(_pieces(profile, _Region(-1, len(nodes) - 1), 0)), nodes), nodes)
    return [Stretch(kind, tuple(node.name for node in nodes[a + 1 : b + 1])) for kind, a, b in pieces]


# ---------------------------------------------------------------------------------------------------- widths


@dataclass(frozen=True, slots=True)
class _Region:
    """The nodes ``start + 1 .. end``: those between two cuts; cut ``p`` is behind node ``p``."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


@dataclass(slots=True)
class _Profile:
    """``width[p + 1]``: how many values are live at cut ``p``.

    ``ends[q]``: where those values were made that node ``q`` is the last to read.
    """

    nodes: Sequence[Node]
    width: list[int] = field(default_factory=list)
    ends: list[list[int]] = field(default_factory=list)

    def at(self, cut: int) -> int:
        return self.width[cut + 1]

    def has_product(self, region: _Region) -> bool:
        return any(map(_is_product, self.nodes[region.start + 1 : region.end + 1]))

    def narrowest(self, region: _Region) -> list[_Region]:
        """``region`` cut at its narrowest places."""
        inner = range(region.start + 1, region.end)
        least = min((self.at(p) for p in inner), default=0)
        cuts = [region.start, *(p for p in inner if self.at(p) == least), region.end]
        return [_Region(a, b) for a, b in pairwise(cuts)]


def _profile(nodes: Sequence[Node], given: frozenset[str]) -> _Profile:
    made = dict.fromkeys(given, -1) | {node.name: at for at, node in enumerate(nodes)}
    last = {ref.name: at for at, node in enumerate(nodes) for ref in node.refs() if ref.name in made}
    change = [0] * (len(nodes) + 2)
    ends: list[list[int]] = [[] for _ in nodes]
    for name, end in last.items():
        change[made[name] + 1] += 1
        change[end + 1] -= 1
        ends[end].append(made[name])
    width, now = [], 0
    for step in change:
        now += step
        width.append(now)
    return _Profile(nodes, width, ends)


# ---------------------------------------------------------------------------------------------------- excursions


class _Form(Enum):
    STRAIGHT = auto()
    BLOCK = auto()


_Piece = tuple[_Form, int, int]


def _pieces(profile: _Profile, region: _Region, depth: int) -> Iterator[_Piece]:
    """``region`` as straight stretches and blocks; inside an excursion a straight stretch with a product is a block."""
    for part in _stretched(profile.narrowest(region)):
        if part.straight:
            inside = depth > 0 and profile.has_product(part.region)
            yield _Form.BLOCK if inside else _Form.STRAIGHT, part.region.start, part.region.end
        elif layers := _layers(profile, part.region):
            yield from ((_Form.BLOCK, a, b) for a, b in pairwise(layers))
            yield _Form.STRAIGHT, layers[-1], part.region.end
        elif depth < DEEPEST and part.region != region and _holds_a_chain(profile, part, region):
            yield from _pieces(profile, part.region, depth + 1)
        else:
            yield _Form.BLOCK, part.region.start, part.region.end


@dataclass(frozen=True, slots=True)
class _Part:
    """A stretch of single nodes between narrowest places, or an excursion."""

    straight: bool
    region: _Region


def _stretched(regions: Sequence[_Region]) -> list[_Part]:
    """Single nodes that follow each other as one part."""
    found: list[_Part] = []
    for region in regions:
        if region.size == 1 and found and found[-1].straight:
            found[-1] = _Part(True, _Region(found[-1].region.start, region.end))
        else:
            found.append(_Part(region.size == 1, region))
    return found


def _holds_a_chain(profile: _Profile, part: _Part, region: _Region) -> bool:
    inner = [found for found in profile.narrowest(part.region) if found.size > 1]
    return sum(map(profile.has_product, inner)) >= INSIDE or 2 * part.region.size > region.size


def _layers(profile: _Profile, part: _Region) -> list[int]:
    """The cuts between the layers of a dense stage, its last node left out; none if it is no such stage.

    At such a cut all that is live is read by the last node, or goes on beyond it. Each layer reads the one before it.
    """
    open_ = [0] * (part.size + 1)  # how many values are live that end before the last node
    for at in range(part.start + 1, part.end):
        for made in profile.ends[at]:
            open_[max(made, part.start) - part.start] += 1
            open_[at - part.start] -= 1
    cuts, now = [part.start], 0
    for offset, step in enumerate(open_[:-1]):
        now += step
        if offset and now == 0 and _reads(profile, part.start + offset, cuts, part.end):
            cuts.append(part.start + offset)
    return cuts if len(cuts) > 2 and cuts[-1] == part.end - 1 else []


def _reads(profile: _Profile, cut: int, cuts: Sequence[int], end: int) -> bool:
    """Whether the layer that ends at ``cut`` reads the layer before it; the first one need not."""
    if len(cuts) < 2:
        return True
    before = {node.name for node in profile.nodes[cuts[-2] + 1 : cuts[-1] + 1]}
    return any(ref.name in before for node in profile.nodes[cuts[-1] + 1 : cut + 1] for ref in node.refs())


# ---------------------------------------------------------------------------------------------------- names


def _joined(pieces: list[_Piece], nodes: Sequence[Node]) -> list[_Piece]:
    """Straight nodes that follow each other as one; those that compute no product with the block before them."""
    found: list[_Piece] = []
    for form, start, end in pieces:
        if found and form is found[-1][0] is _Form.STRAIGHT:
            found[-1] = (form, found[-1][1], end)
        else:
            found.append((form, start, end))
    if all(form is _Form.STRAIGHT for form, _, _ in found):
        return _by_products(nodes)
    return _with_tails(found, nodes)


def _by_products(nodes: Sequence[Node]) -> list[_Piece]:
    """A straight graph: each product, with what follows it, is a block."""
    starts = [at for at, node in enumerate(nodes) if _is_product(node)]
    if not starts:
        return [(_Form.STRAIGHT, -1, len(nodes) - 1)] if nodes else []
    ends = [*(start - 1 for start in starts[1:]), len(nodes) - 1]
    first: list[_Piece] = [(_Form.STRAIGHT, -1, starts[0] - 1)] if starts[0] else []
    return [*first, *((_Form.BLOCK, start - 1, end) for start, end in zip(starts, ends, strict=True))]


def _with_tails(pieces: list[_Piece], nodes: Sequence[Node]) -> list[_Piece]:
    """What follows a block without a product belongs to it (``relu(x + f(x))``), also where more follows than that."""
    tails: Counter[tuple[str, ...]] = Counter()
    for (form, a, b), nearby in zip(pieces[1:-1], pieces[:-2], strict=True):
        if form is _Form.STRAIGHT and nearby[0] is _Form.BLOCK and not any(map(_is_product, nodes[a + 1 : b + 1])):
            tails[tuple(node.op for node in nodes[a + 1 : b + 1])] += 1
    usual = tails.most_common(1)[0][0] if tails else ()
    found: list[_Piece] = []
    for form, a, b in pieces:
        ops = tuple(node.op for node in nodes[a + 1 : b + 1])
        own = len(ops) if ops in tails and b < len(nodes) - 1 else len(usual) if usual == ops[: len(usual)] else 0
        if form is _Form.STRAIGHT and found and found[-1][0] is _Form.BLOCK and own:
            found[-1] = (_Form.BLOCK, found[-1][1], a + own)
            a += own
        if a < b:
            found.append((form, a, b))
    return found


def _named(pieces: list[_Piece], nodes: Sequence[Node]) -> list[tuple[Kind, int, int]]:
    found: list[tuple[Kind, int, int]] = []
    for at, (form, a, b) in enumerate(pieces):
        straight = Kind.STEM if at == 0 else Kind.HEAD if at == len(pieces) - 1 else Kind.JOINT
        found.append((straight if form is _Form.STRAIGHT else Kind.BLOCK, a, b))
    return found


def _is_product(node: Node) -> bool:
    return node.op.split(".")[1] in PRODUCTS
