"""How long capture takes, and how much memory: loops of growing length that are not marked, a scan, a layer.

OMP_NUM_THREADS=1 python -m ffcompiler.bench.capture
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from ..capture import capture
from ..doctor import machine
from ..loops import scan

Function = Callable[[Tensor], Tensor]


def cell_loop(steps: int) -> tuple[Function, Tensor]:
    """A loop over a GRU cell."""
    cell = nn.GRUCell(8, 16)

    def run(x: Tensor) -> Tensor:
        h, outputs = torch.zeros(1, 16), []
        for t in range(steps):
            h = cell(x[:, t], h)
            outputs.append(h)
        return torch.stack(outputs, 1)

    return run, torch.randn(1, steps, 8)


def written_out(steps: int) -> tuple[Function, Tensor]:
    """The same recurrence from operators, 18 in each step."""
    w = [torch.randn(16, 16) * 0.2 for _ in range(6)]

    def run(x: Tensor) -> Tensor:
        h, outputs = torch.zeros(1, 16), []
        for t in range(steps):
            r = torch.sigmoid(x[:, t] @ w[0] + h @ w[1])
            z = torch.sigmoid(x[:, t] @ w[2] + h @ w[3])
            n = torch.tanh(x[:, t] @ w[4] + r * (h @ w[5]))
            h = (1 - z) * n + z * h
            outputs.append(h)
        return torch.stack(outputs, 1)

    return run, torch.randn(1, steps, 16)


def deep_sampler(steps: int) -> tuple[Function, Tensor]:
    """An array written position by position, a network of about 100 operators in each step."""
    layers = [torch.randn(32, 32) * 0.2 for _ in range(33)]

    def run(x: Tensor) -> Tensor:
        y = torch.zeros(1, steps)
        for i in range(steps):
            h = y[:, :32]
            for w in layers:
                h = torch.tanh(h @ w + 0.1)
            y[:, i] = h[:, 0] + x[:, i]
        return y

    return run, torch.randn(1, steps)


def scanned(steps: int) -> tuple[Function, Tensor]:
    """The loop over a GRU cell, as a scan."""
    cell = nn.GRUCell(8, 16)

    def run(x: Tensor) -> Tensor:
        def step(h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            h = cell(x, h)
            return h, h

        return cast(Tensor, scan(step, torch.zeros(1, 16), x)[1])

    return run, torch.randn(steps, 1, 8)


def layer(steps: int) -> tuple[Function, Tensor]:
    """The same as a layer of torch."""
    gru = nn.GRU(8, 16)
    return lambda x: cast(Tensor, gru(x)[0]), torch.randn(steps, 1, 8)


CASES: dict[str, Callable[[int], tuple[Function, Tensor]]] = {
    "cell": cell_loop,
    "written-out": written_out,
    "deep": deep_sampler,
    "scan": scanned,
    "layer": layer,
}
LENGTHS = (
    ("cell", 1000),
    ("cell", 5000),
    ("written-out", 1000),
    ("written-out", 5000),
    ("deep", 784),
    ("scan", 1000),
    ("layer", 1000),
)


def one(name: str, steps: int) -> str:
    """A line on one case, measured in this process."""
    function, x = CASES[name](steps)
    started = time.perf_counter()
    captured = capture(function, (x,))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    loop = captured.program.loop
    return f"{name:<12}{steps:>6} steps  {loop.hi - loop.lo:>6} found  {seconds:>7.1f} s  {peak:>6.2f} GiB at its peak"


def main(arguments: list[str]) -> None:
    """Each case in a process of its own, so that peaks are its own."""
    if arguments:
        print(one(arguments[0], int(arguments[1])))
        return
    for name, steps in LENGTHS:
        subprocess.run([sys.executable, "-m", "ffcompiler.bench.capture", name, str(steps)], check=True)
    print(machine())


if __name__ == "__main__":
    main(sys.argv[1:])
