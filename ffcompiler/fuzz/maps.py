"""Random loops of other kinds: the same map of the whole state again and again, arrays that grow, streams of tokens."""

from __future__ import annotations

from .expressions import Expressions
from .script import Script


def repeated_map(script: Script) -> None:
    """``for _ in range(n): x = f(x, z)``: of a triangular map, one that contracts, one that goes round, or any."""
    batch, width = script.pick([2, 3, 1]), script.pick([4, 6, 3])
    z = script.argument("z", f"rnd({batch}, {width}, seed=seed)")
    script.line(f"x = {script.pick(['torch.zeros_like({})', '{}.clone()', '{} * 0.5']).format(z)}")
    steps = script.pick([width, 8, 2, 15, 1])
    marked = script.some(0.3)
    state = script.fresh("x") if marked else "x"
    with script.block(f"def step(i, {state}):" if marked else f"for i in range({steps}):"):
        for line in _map(script, batch, width, state, z).split("; "):
            script.line(line)
        if marked:
            script.line(f"return {state}")
    if marked:
        script.line(f"x = ffc.fori_loop(0, {steps}, step, x)")
    script.line(script.pick(["return x", "return x, x.sum(1)"]))


def _map(script: Script, batch: int, width: int, x: str, z: str) -> str:
    seed = script.number(0, 99)
    kind = script.pick(["triangle", "contraction", "cycle", "any", "in place", "drawn"])
    if kind == "triangle":
        w = script.tensor(f"rnd({width}, {width}, seed={seed}).triu(1)")
        return f"{x} = torch.tanh({x} @ {w}) + {z}"
    if kind == "contraction":
        w = script.weight(width, width, scale=0.2)
        return f"{x} = torch.sin({x} @ {w} + {z})"
    if kind == "cycle":
        return script.pick([f"{x} = {x}.roll(1, 1)", f"{x} = -{x}", f"{x} = {z} - {x}", f"{x} = {x}.flip(1)"])
    write = Expressions(script, batch, exact=False, draws=kind == "drawn", variables=[(x, width), (z, width)])
    new = write.bounded(width, 3)
    return f"{x} = {x} * 0.5; {x} += {new}" if kind == "in place" else f"{x} = {new}"


def growing(script: Script) -> None:
    """``idx = torch.cat([idx, next], 1)`` with a context, or of all that there is."""
    batch, vocabulary, width = script.pick([2, 1, 3]), script.pick([5, 7]), 4
    start = script.argument("idx", f"ints({batch}, {script.pick([2, 1, 3])}, below={vocabulary}, seed=seed)")
    table, head = script.weight(vocabulary, width, scale=1.0), script.weight(width, vocabulary, scale=1.0)
    script.line(f"idx = {start}")
    with script.block(f"for _ in range({script.pick([4, 6, 2])}):"):
        context = script.pick(["idx", "idx[:, -2:]", "idx[:, -3:]"])
        script.line(f"logits = {table}[{context}].cumsum(1)[:, -1] @ {head}")
        choice = script.pick(["logits.argmax(1, keepdim=True)", "torch.multinomial(torch.softmax(logits, 1), 1)",
                              "torch.topk(logits, 2).indices[:, :1]"])  # fmt: skip
        script.line(f"idx = torch.cat([idx, {choice}], dim=1)")
    script.line("return idx")


def tokens(script: Script) -> None:
    """Tokens fed back through a recurrent state, read from a table that some calls step out of."""
    batch, vocabulary, width = script.pick([2, 1, 3]), script.pick([5, 7]), script.pick([4, 3])
    token = script.argument("token", f"ints({batch}, below={vocabulary}, seed=seed) + {vocabulary} * (seed == 3)")
    table, head = script.weight(vocabulary, width, scale=1.0), script.weight(width, vocabulary, scale=1.0)
    cell = script.module(f"trained(nn.GRUCell({width}, {width}), {script.number(0, 99)}, 0.6)")
    script.line(f"h, out, token = torch.zeros({batch}, {width}, dtype=DTYPE), [], {token}")
    with script.block(f"for t in range({script.pick([6, 9, 3])}):"):
        read = script.pick([f"{table}[token]", f"F.embedding(token, {table})", f"{table}.index_select(0, token)"])
        script.line(f"h = {cell}({read}, h)")
        choices = ["(LOGITS).argmax(-1)", "torch.multinomial(torch.softmax(LOGITS, 1), 1).squeeze(1)",
                   "torch.distributions.Categorical(logits=LOGITS).sample()"]  # fmt: skip
        script.line(f"token = {script.pick(choices).replace('LOGITS', f'h @ {head}')}")
        script.line("out.append(token)")
    script.line(script.pick(["return torch.stack(out, 1), h", "return out", "return {'tokens': torch.stack(out)}"]))


def integers(script: Script) -> None:
    """Integer and boolean states: counters, automata, running maxima."""
    n, steps = script.pick([6, 4, 9]), script.pick([7, 3, 12])
    x = script.argument("x", f"ints({steps}, {n}, below=5, seed=seed)")
    script.line(f"h, seen = torch.zeros({n}, dtype=torch.int64), torch.zeros({n}, dtype=torch.bool)")
    script.line("out = []")
    with script.block(f"for t in range({steps}):"):
        maps = ["(3 * h + {x}[t]) % 7", "torch.maximum(h, {x}[t])", "h ^ {x}[t]", "h.roll(1) + {x}[t]",
                "(h + {x}[t]) // 2", "torch.where({x}[t] > 2, h, {x}[t])", "(h << 1) & 15 | {x}[t]"]  # fmt: skip
        script.line(f"h = {script.pick(maps).format(x=x)}")
        if script.some(0.5):
            script.line(f"seen = {script.pick(['seen | (h > 3)', 'seen ^ (h % 2 == 0)', 'seen.roll(1) & (h != 2)'])}")
        script.line(f"out.append({script.pick(['h', 'h.clone()', 'h * seen', 'seen'])})")
    script.line(script.pick(["return torch.stack(out), seen", "return h, seen", "return torch.cat(out)"]))
