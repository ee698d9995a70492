"""The dependence of a system in a few figures: levels, what a windowed sweep computes, what it keeps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..plan import Method, Plan
from ..proof import Proof
from ..windows import Box, Footprint, Stage

SUMS = ("mm", "linear", "convolution", "softmax", "attention", "norm", "sum", "mean")


@dataclass(frozen=True, slots=True)
class Dependence:
    """``levels``: blocks on the longest chain of dependence, an upper bound on Jacobi sweeps less one."""

    blocks: int
    levels: int
    window: Footprint  # of the chosen schedule's window, or of an eighth of the array
    kept_bytes: int

    def lines(self) -> list[str]:
        """The summary for people."""
        lines = [self._levels()]
        width = self.window.hi - self.window.settled
        lines.append(
            f"a sweep over a window of {width} blocks computes {100 * self.window.share:.3g} % of one evaluation "
            f"of the shared part, and keeps {self.kept_bytes / 2**20:.3g} MiB from sweep to sweep"
        )
        stages = [stage for stage in self.window.stages if any(word in stage.op for word in SUMS)]
        lines += [f"{_place(stage)} of {stage.op} at {stage.source}" for stage in stages[:STAGES]]
        if len(stages) > STAGES:
            lines.append(f"and {len(stages) - STAGES} more stages (explain --json has all)")
        return lines

    def _levels(self) -> str:
        if self.levels == self.blocks:
            return f"{self.blocks} blocks in a chain: each may depend on the one before it"
        return (
            f"{self.blocks} blocks in {self.levels} levels of blocks that do not depend on each other: "
            f"wavefront needs {self.levels} sweeps and no iteration"
        )

    @property
    def json(self) -> dict[str, Any]:
        """Plain data for ``json.dump``."""
        return asdict(self)


STAGES = 8
"""Stages that are printed."""


def dependence(plan: Plan, proof: Proof) -> Dependence | None:
    """The summary of a plan that may be solved by sweeps; None of any other."""
    loop, windows = plan.array, proof.windows
    if loop is None or plan.refusal is not None or windows is None:
        return None
    block = plan.schedule.block or (1 if plan.schedule.method is Method.GAUSS_SEIDEL else -(-loop.blocks // 8))
    start = max(min(loop.blocks // 2, loop.blocks - block) // loop.row * loop.row, 0)
    window = windows.footprint(max(start - 1, 0) if block == 1 else start, min(start + max(block, 2), loop.blocks))
    levels = loop.blocks if proof.wave is None else len(proof.wave.ends)
    return Dependence(loop.blocks, levels, window, windows.layout.bytes)


def _place(stage: Stage) -> str:
    """``[:, 192:240] of [100, 512]``."""
    return f"[{', '.join(_sides(stage.box, stage.shape))}] of {list(stage.shape)}"


def _sides(box: Box, shape: tuple[int, ...]) -> list[str]:
    return [":" if (lo, hi) == (0, n) else f"{lo}:{hi}" for (lo, hi), n in zip(box, shape, strict=True)]
