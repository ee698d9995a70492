"""Random chains of unlike steps: deep networks whose blocks add to what they read, join it, narrow or widen it."""

from __future__ import annotations

from collections.abc import Callable

from .expressions import Expressions
from .script import Script


def chain(script: Script) -> None:
    """A function that runs a stack of blocks, written out or in a list of modules."""
    batch, width = script.pick([2, 3, 1]), script.pick([4, 3, 6])
    x = script.argument("x", f"rnd({batch}, {width}, seed=seed)")
    script.line(f"x = {x}" + script.pick(["", " * 0.5", ".clone()"]))
    write = Expressions(script, batch, exact=False, draws=script.some(0.1), variables=[("x", width)])
    forms = script.pick(
        [[_residual], [_joined, _joined, _narrowed], [_residual, _plain, _joined], [_listed], [_skipping]]
    )
    for _ in range(script.pick([4, 6, 3, 9, 2])):
        width = script.pick(forms)(write, width)
        write.variables = [("x", width), *(v for v in write.variables if v[0] != "x")]
    script.line(
        script.pick(["return x", "return {'x': x, 'most': x.argmax(1)}", "return torch.softmax(x, 1), x[:, :1]"])
    )


Form = Callable[[Expressions, int], int]


def _linear(write: Expressions, inputs: int, outputs: int) -> str:
    script = write.script
    return script.module(f"trained(nn.Linear({inputs}, {outputs}), {script.number(0, 99)}, {0.5 / inputs**0.5:.3g})")


def _residual(write: Expressions, width: int) -> int:
    script = write.script
    inner = script.pick([width, 5])
    value = script.pick(["torch.tanh({})", "torch.relu({})", "F.gelu({})"]).format(f"{_linear(write, width, inner)}(x)")
    script.line(f"x = x + {_linear(write, inner, width)}({value})")
    return width


def _joined(write: Expressions, width: int) -> int:
    """As in a densely connected network."""
    growth = write.script.pick([2, 1, 3])
    write.script.line(f"x = torch.cat([x, torch.relu({_linear(write, width, growth)}(x))], 1)")
    return width + growth


def _narrowed(write: Expressions, width: int) -> int:
    outputs = max(width // 2, 1)
    write.script.line(f"x = torch.tanh({_linear(write, width, outputs)}(x))")
    return outputs


def _plain(write: Expressions, width: int) -> int:
    outputs = write.script.pick([width, 4])
    write.script.line(f"x = {write.bounded(outputs, 3)}")
    return outputs


def _skipping(write: Expressions, width: int) -> int:
    """Reads what an earlier block left."""
    script = write.script
    kept = script.fresh("kept")
    script.line(f"{kept} = x")
    script.line(f"x = {write.bounded(width, 2)}")
    write.variables.append((kept, width))
    return width


def _listed(write: Expressions, width: int) -> int:
    script = write.script
    seed, count, scale = script.number(0, 99), script.pick([3, 5]), 0.5 / width**0.5
    layer = f"nn.Sequential(nn.Linear({width}, {width}), nn.Tanh())"
    layers = script.module(f"nn.ModuleList([trained({layer}, {seed} + 2 * k, {scale:.3g}) for k in range({count})])")
    with script.block(f"for layer in {layers}:"):
        script.line(script.pick(["x = x + layer(x)", "x = layer(x)", "x = 0.5 * x - layer(x.flip(1))"]))
    return width
