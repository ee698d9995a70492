"""Windowed sweeps: the shared part on the elements that can have changed, with the rest kept from before.

A *workspace* holds the kept values of one run and goes back to a pool when the run ends, so that the next run finds its
views made. What a windowed sweep computes is never claimed: certifying sweeps evaluate the whole (docs/exactness.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import TypeAlias

import torch
from torch import Tensor

from ..plan import Schedule
from ..program import ArrayLoop
from ..schedules import quantum
from ..windows import WindowProgram, Windows
from .binding import bind
from .graphs import graph_call
from .lowering import channels_last
from .workspace import PROGRAMS, Bound, Workspace

Env: TypeAlias = Mapping[str, Tensor]

POOL = 2
"""Workspaces that are kept between runs: more are made while more threads run at once."""


class Windowed:
    """The windows of a system on one device. Threads may share it: what changes in a run belongs to its workspace."""

    def __init__(self, loop: ArrayLoop, windows: Windows, device: torch.device, align: int = 1) -> None:
        self.loop = loop
        self.align = align
        self.layout = windows.layout
        self.device = device
        self._windows = windows
        own = {node.name for node in loop.shared.nodes}
        self._fill = graph_call(loop.shared, device, [b.ref for b in self.layout.buffers if b.ref.name in own])
        self._programs: dict[tuple[int, int], WindowProgram] = {}
        self._orders = [torch.tensor(order, device=device) for order in self.layout.orders]
        self._channels_last = channels_last(loop, self.layout, device)
        self._pool: list[Workspace] = []
        self._lock = Lock()  # between finding a workspace in the pool and taking it

    def quantum(self, schedule: Schedule) -> int:
        """Windows begin and end at multiples of this, so that few different ones occur: rows where there are rows."""
        return quantum(schedule, self.loop.blocks, self.loop.row)

    def begin(self, env: Env, state: Tensor) -> Workspace:
        """A workspace with every kept value evaluated on ``state``."""
        values = dict(zip((r.key for r in self._fill.outputs), self._evaluate(env, state), strict=True))
        workspace = self._acquire()
        workspace.begin(env, {**values, self.loop.carry.name: state})
        return workspace

    def end(self, workspace: Workspace) -> None:
        """Give a workspace back."""
        workspace.forget()
        with self._lock:
            if len(self._pool) < POOL:
                self._pool.append(workspace)

    def refresh(self, workspace: Workspace, state: Tensor, settled: int, hi: int) -> None:
        """Bring up to date what depends on blocks from ``settled`` on and is read by blocks before ``hi``."""
        workspace.run(self.prepare(workspace, settled, hi), state)

    def prepare(self, workspace: Workspace, settled: int, hi: int) -> Bound:
        """The calls of a window, bound to the workspace when it is first seen."""
        return workspace.bind((settled, hi), lambda: bind(workspace, self.program(settled, hi)))

    def program(self, settled: int, hi: int) -> WindowProgram:
        """The instructions of a window."""
        found = self._programs.get((settled, hi))
        if found is None:
            if len(self._programs) >= PROGRAMS:
                self._programs.clear()
            found = self._programs[settled, hi] = self._windows.program(settled, hi, self.align)
        return found

    def _evaluate(self, env: Env, state: Tensor) -> tuple[Tensor, ...]:
        return self._fill.values({**env, self.loop.carry.name: state})

    def _acquire(self) -> Workspace:
        inference = torch.is_inference_mode_enabled()  # its tensors cannot be written outside of it
        with self._lock:
            for position, workspace in enumerate(self._pool):
                if workspace.inference == inference:
                    return self._pool.pop(position)
        return Workspace(self.layout, self.device, self._orders, inference, self._channels_last)
