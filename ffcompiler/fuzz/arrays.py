"""Random array loops: each step writes one position, from a network with random masks of the whole array."""

from __future__ import annotations

from dataclasses import dataclass, field

from .script import Script

SQUASH = ["torch.tanh({})", "torch.relu({})", "torch.sin({})", "F.softplus({})", "torch.sigmoid({})", "F.silu({})"]
TAILS = [
    "{m} + {u}", "{m} + torch.tanh({s}) * {u}", "{m} + F.softplus({s}) * {u}", "torch.sigmoid({m}) * {u} + 0.5",
    "({m} - {s}).clamp(-2, 2) * {u}", "torch.maximum({m}, {u})", "{m} + torch.exp(0.2 * torch.tanh({s})) * {u}",
]  # fmt: skip
ROUGH_TAILS = [
    "({m} > {u}).to(DTYPE)", "torch.round({m} + {u})", "torch.bernoulli(torch.sigmoid({m}))", "({m} + {u}).sign()",
]  # fmt: skip
DRAWN = ["torch.rand({m}.shape, dtype=DTYPE)", "torch.randn({m}.shape, dtype=DTYPE)", "torch.rand_like({m})"]
INITIAL = [
    "{}.clone()", "torch.ones({shape}, dtype=DTYPE)", "{} * 0.5", "-torch.zeros_like({})", "torch.full_like({}, 1e30)",
    "torch.full(({shape},), float('nan'), dtype=DTYPE)", "torch.full_like({}, float('inf'))",
]  # fmt: skip
MODELS = ["dense", "dense", "general", "conv", "attention", "raster", "triangle"]


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


def array(script: Script) -> None:
    """The lines of a function that fills an array position by position."""
    model = script.pick(MODELS)
    n = script.pick([6, 4, 9, 12, 2, 1])
    order = list(range(n))
    if model in ("dense", "general") and script.some(0.3):
        script.rng.shuffle(order)
    made = Array(script, script.pick([3, 2, 1]), n, model, order)
    {"dense": _dense, "general": _general, "conv": _conv, "attention": _attention, "raster": _raster,
     "triangle": _triangle}[model](made)  # fmt: skip
    value = f"rnd({made.shape}, seed=seed + 3)"
    noise = script.argument("u", f"odd({value}, seed)" if script.some(0.3) else value)
    first = script.pick([*["torch.zeros_like({})"] * 3, *INITIAL])
    if script.some(0.1):
        first = script.argument("x", f"rnd({made.shape}, seed=seed)")  # written in place, for the caller to see
    script.line(f"x = {first.format(noise, shape=made.shape)}")
    if script.some(0.1):
        script.line("x = x + 0.0")
    (_marked if script.some(0.4) else _plain)(made, noise)


# ---------------------------------------------------------------------------------------------------- networks


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


# ---------------------------------------------------------------------------------------------------- loops


def _plain(a: Array, noise: str) -> None:
    script = a.script
    if "[:, :, r, c]" in a.at:
        rows, columns = a.shape.split(", ")[-2:]
        with script.block(f"for r in range({rows}):"), script.block(f"for c in range({columns}):"):
            _write(a, noise, marked=False)
    else:
        begin = script.pick([0, 0, 0, 1]) if a.positions > 1 else 0
        with script.block(f"for i in range({begin}, {a.positions}):"):
            _write(a, noise, marked=False)
    script.line(
        script.pick(["return x", "return {'x': x, 'sum': x.exp().sum(), 'k': [1.5]}", "return torch.tanh(x), x"])
    )


def _marked(a: Array, noise: str) -> None:
    script = a.script
    with script.block("def step(i, x):"):
        if "[:, :, r, c]" in a.at:
            script.line(f"r, c = divmod(i, {a.shape.split(', ')[-1]})")
        _write(a, noise, marked=True)
        script.line("return x")
    script.line(f"x = ffc.fori_loop({script.pick([0, 0, 1]) if a.positions > 1 else 0}, {a.positions}, step, x)")
    script.line(script.pick(["return x", "return [x, x.abs().amax()]"]))


def _write(a: Array, noise: str, marked: bool) -> None:
    """One step: the network on the whole array, the value of one position, the write."""
    script, at = a.script, a.at
    for line in a.writes:
        script.line(line)
    script.line(f"m, s = {a.network.format(x='x')}.{a.heads}")
    whole = script.some(0.3)
    part = "" if whole else at
    tails = TAILS if script.smooth else TAILS + ROUGH_TAILS
    drawn = script.pick(DRAWN).format(m=f"m{part}") if script.some(0.2) else f"{noise}{part}"
    value = script.pick(tails).format(m=f"m{part}", s=f"s{part}", u=drawn)
    value += _extra(a, part) if script.some(0.15) else ""
    script.line(f"value = ({value}){at if whole else ''}")
    forms = [
        f"x = x.clone(); x{at} = value",
        f"x{at} = value",
        f"x = x.clone(); x{at}.copy_(value)",
        f"y = x.clone(); y{at} = value; x = y",
    ]
    if script.some(0.15):
        forms = [
            f"x{at} = value; x{at} *= 0.5",
            f"x{at} += value",
            f"x = x + 0.0; x{at} = value",
            f"x = x.clamp(-5, 5); x{at} = value",
            f"x = x.clone(); x{at} = value; x{at.replace(' i', ' 0').replace('[i', '[0')} = 0.5",
            f"x = x.clone(); old = x{at}; x{at} = value + old",
            f"old = x{at}.clone(); x{at} = value; x = torch.where(x > 3, old.amax(), x)",
        ]
    elif at == "[:, i]":
        forms += [
            "x = x.select_scatter(value, 1, i)",
            "x = x.index_copy(1, torch.tensor([i]), value[:, None])",
            "x = torch.cat([x[:, :i], value[:, None], x[:, i + 1:]], 1)",
            f"x = torch.where(torch.arange({a.positions}) == i, value[:, None], x)",
            "x[:, i:i + 1] = value[:, None]",
            "x = x.scatter(1, torch.full((len(x), 1), i), value[:, None])",
        ]
    for line in script.pick(forms).split("; "):
        script.line(line)


def _extra(a: Array, part: str) -> str:
    """Reads that a proof has to look at: of the position's old content, of the step's number, of a neighbour."""
    script = a.script
    reads = [f" + 0.25 * x{part}", " + 0.1 * len(x)"]
    if "i" in a.at and a.at != "[:, :, r, c]":
        reads += [" + 0.1 * i"]
    if a.at == "[:, i]" and part:
        reads += [" + 0.5 * x[:, max(i - 1, 0)]", f" + 0.5 * x[:, min(i + 1, {a.positions - 1})]", " + x[:, 0]"]
    return script.pick(reads)
