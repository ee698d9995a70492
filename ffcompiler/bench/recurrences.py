"""Recurrences over a long sequence, written as a plain Python loop: against that loop and torch's own fused modules."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..driver import compile as compile_function
from ..plan import Tolerance
from .harness import Measurement, Moment, Progress, measure, moment, pinned_threads

LOOP, MODULE, COMPILED = "eager loop", "fused module", "compiled"
STEPS = 10_000
EQUALITY, WIDE = Tolerance(1e-6, 1e-6), Tolerance(1e-5, 1e-5)

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Case:
    """A loop, torch's own module for the same recurrence, and an input ``[1, steps, features]``."""

    title: str
    loop: Function
    module: Function
    x: Tensor
    equality: Tolerance = EQUALITY


def tanh_rnn(features: int = 4) -> Case:
    """``h = tanh(x_t W_x + h W_h + b)`` by hand, with the weights that `nn.RNN` begins with."""
    generator = torch.Generator().manual_seed(0)
    rnn = _seeded(nn.RNN(features, features, batch_first=True))
    w_x, w_h, b_x, b_h = (p.detach() for p in rnn.parameters())

    def loop(x: Tensor) -> Tensor:
        h, outputs = torch.zeros(1, features), []
        for t in range(x.shape[1]):
            h = torch.tanh(torch.addmm(b_x, x[:, t], w_x.T) + torch.addmm(b_h, h, w_h.T))
            outputs.append(h)
        return torch.stack(outputs, 1)

    x = torch.randn(1, STEPS, features, generator=generator)
    return Case(f"tanh RNN, state {features}, {STEPS} steps, batch 1", loop, lambda x: rnn(x)[0], x)


def gru(features: int = 2) -> Case:
    """`nn.GRUCell` in a loop, with the weights that `nn.GRU` begins with."""
    return _cells("GRU", nn.GRU, nn.GRUCell, features, 1, STEPS)


def lstm(features: int = 2) -> Case:
    """The same of `nn.LSTMCell`, whose memory is longer."""
    return _cells("LSTM", nn.LSTM, nn.LSTMCell, features, 1, STEPS)


def gru_layers(features: int = 2, layers: int = 2) -> Case:
    """Layers that each run over the whole sequence: loops in a row."""
    return _cells(f"GRU of {layers} layers", nn.GRU, nn.GRUCell, features, layers, STEPS)


def gru_wide(features: int = 64, steps: int = 4096) -> Case:
    """A state of many elements: a sweep over all steps is work, not dispatch."""
    return replace(_cells("GRU", nn.GRU, nn.GRUCell, features, 1, min(steps, STEPS)), equality=WIDE)


def gru_stack(features: int = 32, layers: int = 4, steps: int = 1000) -> Case:
    """Layers within one loop: each step runs all of them, one after the other."""
    case = _cells(f"GRU of {layers} layers in one loop", nn.GRU, nn.GRUCell, features, layers, min(steps, STEPS))
    cells = _cells_like(_seeded(nn.GRU(features, features, layers)), nn.GRUCell)

    def loop(x: Tensor) -> Tensor:
        states, outputs = [x.new_zeros(1, features) for _ in cells], []
        for t in range(x.shape[1]):
            y = x[:, t]
            for k, cell in enumerate(cells):
                y = states[k] = cell(y, states[k])
            outputs.append(y)
        return torch.stack(outputs, 1)

    return replace(case, loop=loop, equality=WIDE)


def _cells(
    title: str,
    fused: Callable[..., Any],
    make: Callable[..., Any],
    features: int,
    layers: int,
    steps: int,
) -> Case:
    module = _seeded(fused(features, features, layers, batch_first=True))
    cells = _cells_like(module, make)

    def loop(x: Tensor) -> Tensor:
        for cell in cells:
            state, outputs = None, []
            for t in range(x.shape[1]):
                state = cell(x[:, t], state)
                outputs.append(state if isinstance(state, Tensor) else state[0])
            x = torch.stack(outputs, 1)
        return x

    x = torch.randn(1, steps, features, generator=torch.Generator().manual_seed(0))
    return Case(f"{title}, state {features}, {steps} steps, batch 1", loop, lambda x: module(x)[0], x)


def _cells_like(module: nn.Module, make: Callable[..., Any]) -> list[Any]:
    """A cell for each layer, with its weights."""
    assert isinstance(module, nn.RNNBase)
    cells = [make(module.hidden_size, module.hidden_size) for _ in range(module.num_layers)]
    with torch.no_grad():
        for ours, theirs in zip([p for cell in cells for p in cell.parameters()], module.parameters(), strict=True):
            ours.copy_(theirs)
    return cells


def _seeded(module: nn.Module) -> nn.Module:
    """The module with its own initial distribution, from a fixed seed."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            bound = p.shape[-1] ** -0.5
            p.uniform_(-bound, bound, generator=generator)
    return module


CASES: Mapping[str, Callable[[], Case]] = {
    "tanh-rnn": tanh_rnn,
    "gru": gru,
    "lstm": lstm,
    "gru-layers": gru_layers,
    "gru-wide": gru_wide,
    "gru-stack": gru_stack,
}


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured; ``errors``: the largest difference to the loop's results."""

    name: str
    case: Case
    measurement: Measurement
    schedule: str
    sweeps: int
    ending: str
    certificate: str
    compile_seconds: float
    errors: Mapping[str, float]

    @property
    def right(self) -> bool:
        """Whether the compiled function gives what the loop gives, as far as the residual bounds it."""
        return self.errors[COMPILED] < 1e-3

    def to_json(self) -> dict[str, Any]:
        m = self.measurement
        return {
            "benchmark": self.name,
            "title": self.case.title,
            "equality": str(self.case.equality),
            "schedule": self.schedule,
            "sweeps": self.sweeps,
            "ending": self.ending,
            "certificate": self.certificate,
            "compile_seconds": self.compile_seconds,
            "largest_error": dict(self.errors),
            "speedup": {baseline: m.ratio(baseline, COMPILED) for baseline in (LOOP, MODULE)},
            **m.to_json(),
        }

    def __str__(self) -> str:
        m = self.measurement
        lines = [f"{self.case.title}, {self.case.equality}; {m.threads} threads", ""]
        lines += [f"{'':<16}{'median s':>10}{'against loop':>15}{'against module':>16}  largest error"]
        for name in m.seconds:
            ratios = f"{m.ratio(LOOP, name):>14.1f}x{m.ratio(MODULE, name):>15.1f}x"
            lines.append(f"{name:<16}{m.median(name):>10.4g}{ratios}  {self.errors[name]:.2g}")
        lines += ["", f"schedule    {self.schedule}, {self.sweeps} sweeps; {self.ending}"]
        lines += [f"certificate {self.certificate}", f"compile     {self.compile_seconds:.1f} s"]
        lines += [f"pairs       {len(m.seconds[LOOP])}, interleaved; speed-ups are medians over pairs"]
        return "\n".join([*lines, *(f"LOADED      {fault}" for fault in m.load.faults())])


def run(
    name: str,
    pairs: int = 9,
    threads: int | None = None,
    before: Moment | None = None,
    progress: Progress | None = None,
) -> Report:
    """Measure a case."""
    with pinned_threads(threads), torch.no_grad():
        before = before or moment()
        case = CASES[name]()
        started = time.perf_counter()
        compiled = compile_function(case.loop, (case.x,), equality=case.equality, cache=False, progress=progress)
        seconds = time.perf_counter() - started
        result, record = compiled.run(case.x)
        expected = case.loop(case.x)
        given = {LOOP: expected, MODULE: case.module(case.x), COMPILED: result}
        variants = {
            LOOP: lambda: case.loop(case.x),
            MODULE: lambda: case.module(case.x),
            COMPILED: lambda: compiled(case.x),
        }
        measured = measure(variants, pairs, case.x.device, before, progress)
        return Report(
            name,
            case,
            measured,
            ", then ".join(str(part.schedule) for part in compiled.plan.parts),
            sum(len(part.sweeps) for part in record.parts),
            "; then ".join(dict.fromkeys(part.ending.value for part in record.parts)),
            record.claim,
            seconds,
            {n: float((r - expected).abs().max()) for n, r in given.items()},
        )
