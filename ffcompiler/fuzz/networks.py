"""Random networks of an array, masked such that a position reads those before it, or, now and then, one too many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .script import Script

SQUASH = ["torch.tanh({})", "torch.relu({})", "torch.sin({})", "F.softplus({})", "torch.sigmoid({})", "F.silu({})"]


@dataclass(slots=True)
class Array:
    """``network``: an expression of ``{x}`` with two heads, ``at``: how position ``i`` is indexed."""

    script: Script
    batch: int
    positions: int
    model: str
    order: list[int]
    network: str = ""
    at: str = "[:, i]"
    shape: str = ""
    heads: str = "chunk(2, 1)"
    writes: list[str] = field(default_factory=list)  # lines at the beginning of a step


def _mask(script: Script, value: str) -> str:
    """A mask; now and then one that leaks."""
    leak = " + 1" if script.some(0.12) else ""
    return value.replace("LEAK", leak)


def _masked(a: Array, weight: str, mask: str) -> str:
    """A weight that is masked when it is made, or in each step, also in place."""
    script = a.script
    if script.some(0.15):
        name, kept = script.tensor(weight), script.tensor(f"({mask}).to(DTYPE)", trainable=False)
        a.writes.append(f"{name}.data *= {kept}")
        return name
    if script.some(0.5):
        return script.tensor(f"({weight}) * ({mask}).to(DTYPE)")
    return f"({script.tensor(weight)} * {script.tensor(f'({mask}).to(DTYPE)', trainable=False)})"


def _dense(a: Array) -> None:
    """Two masked layers, in the order of the loop."""
    script, n = a.script, a.positions
    hidden = script.pick([8, 5, 16])
    rank = [a.order.index(k) for k in range(n)]
    ranks, degrees = f"torch.tensor({rank})", f"torch.arange({hidden}) % {max(n - 1, 1)}"
    first = _mask(script, f"({degrees})[:, None] >= {ranks}")
    second = _mask(script, f"{ranks}.repeat(2)[:, None]LEAK > ({degrees})")
    scale = (0.5 if script.smooth else script.pick([1.0, 2.0, 0.5])) / n**0.5
    one = _masked(a, f"rnd({hidden}, {n}, seed={script.number(0, 99)}, scale={scale:.3g})", first)
    two = _masked(a, f"rnd({2 * n}, {hidden}, seed={script.number(0, 99)}, scale={scale:.3g})", second)
    bias = f", {script.weight(2 * n, scale=0.3)}" if script.some(0.5) else ""
    squash = script.pick(SQUASH)
    a.network = f"F.linear({squash.format('F.linear({x}, ' + one + ')')}, {two}{bias})"
    a.shape = f"{a.batch}, {n}"
    a.at = f"[:, {_index(a)}]"


def _general(a: Array) -> None:
    """One product with the mask of a random graph: many positions do not read each other."""
    script, n = a.script, a.positions
    rank = [a.order.index(k) for k in range(n)]
    strict = _mask(script, f"torch.tensor({rank})[:, None] < torch.tensor({rank})LEAK")
    sparse = f"({strict}) & (ints({n}, {n}, below=3, seed={script.number(0, 99)}) > 0)"
    w = _masked(a, f"rnd({n}, {n}, seed={script.number(0, 99)}, scale={0.2 if script.smooth else 1.0})", sparse)
    a.network = f"torch.cat([{{x}} @ {w}, {script.pick(SQUASH).format('{x}')} @ {w}], 1)"
    a.shape = f"{a.batch}, {n}"
    a.at = f"[:, {_index(a)}]"


def _triangle(a: Array) -> None:
    """A product with a triangular weight, of a vector without a batch."""
    script, n = a.script, a.positions
    diagonal = 0 if script.some(0.12) else -1
    weight = f"rnd(2, {n}, {n}, seed={script.number(0, 99)}, scale={0.2 if script.smooth else 1.0})"
    w = script.tensor(f"{weight}.tril({diagonal}).reshape({2 * n}, {n})")
    a.network, a.shape, a.at = script.pick(SQUASH).format(f"({w} @ {{x}})"), f"{n}", "[i]"
    a.heads = "chunk(2, 0)"


def _index(a: Array) -> str:
    """Position of step ``i``."""
    if a.order == list(range(a.positions)):
        return "i"
    return f"{a.script.constant('order', repr(a.order))}[i]"


def _conv(a: Array) -> None:
    """Causal convolutions over a sequence with channels."""
    script, n = a.script, a.positions
    channels, hidden, reach = script.pick([1, 2]), script.pick([3, 5]), script.pick([1, 2, 3])
    one, two = script.weight(hidden, channels, reach, scale=0.7), script.weight(2 * channels, hidden, reach, scale=0.6)
    shift = reach - 1 if script.some(0.12) else reach
    inner = f"F.pad({{x}}, ({shift}, 0))[:, :, :{n} + {reach - 1}]"
    hidden_layer = script.pick(SQUASH).format(f"F.conv1d({inner}, {one})")
    a.network = f"F.conv1d(F.pad({hidden_layer}, ({reach - 1}, 0)), {two})"
    a.shape, a.at = f"{a.batch}, {channels}, {n}", "[:, :, i]"


def _attention(a: Array) -> None:
    """One head of causal attention, shifted by one."""
    script, n, width = a.script, a.positions, 4
    qkv, out = script.weight(2, 3 * width, scale=0.7), script.weight(width, 2, scale=0.7)
    hidden = "-1e4" if script.some(0.2) else "float('-inf')"
    mask = script.tensor(f"torch.full(({n}, {n}), {hidden}).triu(1).to(DTYPE)", trainable=False)
    place = script.weight(n, 1, scale=0.5)
    shifted = "x" if script.some(0.12) else f"F.pad(x, (1, 0))[:, :{n}]"
    for line in (f"def net{script.names}(x):",
                 f"    y = {shifted}.unsqueeze(-1)",
                 f"    q, k, v = (torch.cat([y, {place}.expand(len(y), -1, 1)], -1) @ {qkv}).split({width}, dim=-1)",
                 _attend(script, width, mask),
                 f"    return (y @ {out}).transpose(1, 2).reshape(len(x), -1)"):  # fmt: skip
        script.line(line)
    a.network, a.shape = f"net{script.names}({{x}})", f"{a.batch}, {n}"


def _attend(script: Script, width: int, mask: str) -> str:
    if script.some(0.3):
        return f"    y = F.scaled_dot_product_attention(q, k, v, attn_mask={mask})"
    return f"    y = torch.softmax(q @ k.transpose(1, 2) / {width**0.5} + {mask}, -1) @ v"


def _raster(a: Array) -> None:
    """Masked convolutions over an image, in raster order."""
    script = a.script
    rows, columns = script.pick([(3, 3), (2, 3), (4, 2), (1, 4)])
    a.positions, a.order = rows * columns, list(range(rows * columns))
    channels, hidden = script.pick([1, 2]), script.pick([3, 4])
    middle = 1 if script.some(0.12) else 0
    one = _masked(a, f"rnd({hidden}, {channels}, 3, 3, seed={script.number(0, 99)}, scale=0.7)",
                  f"torch.tensor([[1., 1, 1], [1, {middle}, 0], [0, 0, 0]])")  # fmt: skip
    two = _masked(a, f"rnd({2 * channels}, {hidden}, 3, 3, seed={script.number(0, 99)}, scale=0.5)",
                  "torch.tensor([[1., 1, 1], [1, 1, 0], [0, 0, 0]])")  # fmt: skip
    squash = script.pick(SQUASH)
    a.network = f"F.conv2d({squash.format(f'F.conv2d({{x}}, {one}, padding=1)')}, {two}, padding=1)"
    a.shape = f"{a.batch}, {channels}, {rows}, {columns}"
    a.at = f"[:, :, i // {columns}, i % {columns}]"
    if script.some(0.5):
        a.at = "[:, :, r, c]"


NETWORKS: dict[str, Callable[[Array], None]] = {
    "dense": _dense,
    "general": _general,
    "conv": _conv,
    "attention": _attention,
    "raster": _raster,
    "triangle": _triangle,
}
MODELS = ["dense", *NETWORKS]
