"""Random array loops: each step writes one position, from a network with random masks of the whole array."""

from __future__ import annotations

from .networks import MODELS, NETWORKS, Array
from .script import Script

TAILS = [
    "{m} + {u}", "{m} + torch.tanh({s}) * {u}", "{m} + F.softplus({s}) * {u}", "torch.sigmoid({m}) * {u} + 0.5",
    "({m} - {s}).clamp(-2, 2) * {u}", "torch.maximum({m}, {u})", "{m} + torch.exp(0.2 * torch.tanh({s})) * {u}",
]  # fmt: skip
ROUGH_TAILS = [
    "({m} > {u}).to(DTYPE)", "torch.round({m} + {u})", "torch.bernoulli(torch.sigmoid({m}))", "({m} + {u}).sign()",
]  # fmt: skip
DRAWN = ["torch.rand({m}.shape, dtype=DTYPE)", "torch.randn({m}.shape, dtype=DTYPE)", "torch.rand_like({m})"]
TESTS = [
    "if ({m} > 3).any(): value = value * 0.5", "assert not torch.isnan(value).any()", "assert (m < 1e4).all()",
    "assert torch.isfinite(m).all()", "if ({u} > 2).any(): value = -value",
    "if value.abs().sum() > 30: value = value / 2",
]  # fmt: skip
LATE_TESTS = ["assert not ({x} > 1e4).any()", "assert (x.abs() < 1e6).all()", "assert not torch.isnan(x).any()"]
INITIAL = [
    "{}.clone()", "torch.ones({shape}, dtype=DTYPE)", "{} * 0.5", "-torch.zeros_like({})", "torch.full_like({}, 1e30)",
    "torch.full(({shape},), float('nan'), dtype=DTYPE)", "torch.full_like({}, float('inf'))",
]  # fmt: skip


def array(script: Script) -> None:
    """The lines of a function that fills an array position by position."""
    model = script.pick(MODELS)
    n = script.pick([6, 4, 9, 12, 2, 1])
    order = list(range(n))
    if model in ("dense", "general") and script.some(0.3):
        script.rng.shuffle(order)
    made = Array(script, script.pick([3, 2, 1]), n, model, order)
    NETWORKS[model](made)
    value = f"rnd({made.shape}, seed=seed + 3)"
    noise = script.argument("u", f"odd({value}, seed)" if script.some(0.3) else value)
    first = script.pick([*["torch.zeros_like({})"] * 3, *INITIAL])
    if script.some(0.1):
        first = script.argument("x", f"rnd({made.shape}, seed=seed)")  # written in place, for the caller to see
    script.line(f"x = {first.format(noise, shape=made.shape)}")
    if script.some(0.1):
        script.line("x = x + 0.0")
    (_marked if script.some(0.4) else _plain)(made, noise)


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
    tested = script.pick([TESTS, LATE_TESTS]) if script.some(0.15) else []
    if tested is TESTS:
        script.line(script.pick(TESTS).format(m=f"m{at}", u=f"{noise}{at}"))
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
    if tested is LATE_TESTS:
        script.line(script.pick(LATE_TESTS).format(x=f"x{at}"))


def _extra(a: Array, part: str) -> str:
    """Reads that a proof has to look at: of the position's old content, of the step's number, of a neighbour."""
    script = a.script
    reads = [f" + 0.25 * x{part}", " + 0.1 * len(x)"]
    if "i" in a.at and a.at != "[:, :, r, c]":
        reads += [" + 0.1 * i"]
    if a.at == "[:, i]" and part:
        reads += [" + 0.5 * x[:, max(i - 1, 0)]", f" + 0.5 * x[:, min(i + 1, {a.positions - 1})]", " + x[:, 0]"]
    return script.pick(reads)
