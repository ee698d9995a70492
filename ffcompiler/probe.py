"""Which cuts of products round like whole products on this device: a hint for windows, never evidence.

A windowed solve is certified by whole evaluations. Where its kernels round as those do, one certifying sweep is enough;
elsewhere each further one mends what the last one found (docs/exactness.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .runtime.equality import differs
from .runtime.runner import Execution, Runner
from .runtime.windowed.windowed import Windowed

ALIGNMENTS = (1, 8, 16, 32, 64)


def best_alignment(runner: Runner, execution: Execution, final: Tensor) -> int:
    """The alignment with which windows on ``final``, the answer, differ least from the whole; smallest first.

    1 where windows raise (there may not be room for them): so would a run, and end with the reference.
    """
    system = runner.system
    if system is None or runner.proof.windows is None:
        return 1
    found = []
    for align in ALIGNMENTS:
        windowed = Windowed(system.loop, runner.proof.windows, runner.device, align)
        try:
            wrong = mismatches(windowed, execution, system.start_from(final))
        except AssertionError:  # our own logic
            raise
        except Exception:
            return 1
        found.append((wrong, align))
        if wrong == 0:
            break
    return min(found)[1]


def mismatches(windowed: Windowed, execution: Execution, state: Tensor) -> int:
    """Elements of kept values whose bits change when windows of several widths are computed anew."""
    blocks = windowed.loop.blocks
    wrong = 0
    with torch.no_grad():
        workspace = windowed.begin(execution.env, state)
        buffers = [workspace.kept[b.ref.key] for b in windowed.layout.buffers]
        whole = [t.clone() for t in buffers]
        for settled, hi in sample_windows(blocks):
            windowed.refresh(workspace, state, settled, hi)
            for kept, before in zip(buffers, whole, strict=True):
                wrong += int(differs(kept, before).sum())
                kept.copy_(before)
        workspace.forget()
    return wrong


def sample_windows(blocks: int) -> list[tuple[int, int]]:
    """Narrow and wide windows, early and late in the array."""
    widths = sorted({2, max(blocks // 32, 2), max(blocks // 8, 2)})
    starts = sorted({blocks // 5, blocks // 2, blocks * 4 // 5})
    return [(start, min(start + width, blocks)) for width in widths for start in starts]
