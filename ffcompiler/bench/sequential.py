"""A loop run step by step from an artifact, against the Python loop that it was captured from.

OMP_NUM_THREADS=1 python -m ffcompiler.bench.sequential
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..driver import compile as compile_
from ..driver import load
from ..runtime.equality import same_bits
from .harness import Measurement, measure, moment, pinned_threads

STEPS = 1000
PAIRS = 15
CELLS: dict[str, Callable[[], nn.Module]] = {
    "GRU cell, 3 to 5, batch 2": lambda: nn.GRUCell(3, 5),
    "GRU cell, 64 to 64, batch 2": lambda: nn.GRUCell(64, 64),
    "LSTM cell, 16 to 32, batch 2": lambda: nn.LSTMCell(16, 32),
    "tanh cell, 2 to 4, batch 2": lambda: nn.RNNCell(2, 4),
}


def over_time(cell: nn.Module) -> Callable[[Tensor], Tensor]:
    """The plain loop, collecting what the cell gives."""
    hidden = int(cell.hidden_size)  # type: ignore[arg-type]

    def run(x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], hidden)
        state, outputs = ((h, torch.zeros_like(h)) if isinstance(cell, nn.LSTMCell) else h), []
        for t in range(x.shape[1]):
            state = cell(x[:, t], state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, 1)

    return run


def measured(cell: nn.Module, folder: Path) -> Measurement:
    """Seconds of the loop and of the loaded artifact's reference, which must have its bits."""
    before = moment()
    run, x = over_time(cell), torch.randn(2, STEPS, int(cell.input_size))  # type: ignore[arg-type]
    compile_(run, (x,), schedule="sequential").save(folder / "cell.ffc", force=True)
    loaded = load(folder / "cell.ffc")
    with torch.no_grad():
        if not same_bits(loaded.reference(x), run(x)):
            raise AssertionError("the artifact's loop has other bits")
        return measure(
            {"eager": lambda: run(x), "artifact": lambda: loaded.reference(x)}, PAIRS, torch.device("cpu"), before
        )


def main() -> None:
    torch.manual_seed(0)
    with pinned_threads(1), tempfile.TemporaryDirectory() as folder:
        for name, make in CELLS.items():
            found = measured(make(), Path(folder))
            eager, artifact = found.median("eager"), found.median("artifact")
            ratio = 1 / found.ratio("eager", "artifact")
            print(f"{name}: eager {1e3 * eager:.1f} ms, artifact {1e3 * artifact:.1f} ms, {ratio:.2f} of its time")
            for fault in found.load.faults():
                print(f"  {fault}")
    print(f"{STEPS} steps, {PAIRS} pairs, one thread, {dict(found.machine)}")


if __name__ == "__main__":
    main()
