"""Windowed sweeps: the shared part on the elements that can have changed, with the rest kept from before.

A *workspace* holds the kept values of one run and goes back to a pool when the run ends, so that the next run finds its
views made. What a windowed sweep computes is never claimed: certifying sweeps evaluate the whole (docs/exactness.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from threading import Lock
from typing import TypeAlias

import torch
from torch import Tensor

from ...plan import Schedule
from ...program import ArrayLoop
from ...schedules import quantum
from ...windows import WindowProgram, Windows
from ..graphs import graph_call
from ..watch import Watch, look
from .binding import bind
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
        kept = [b.ref for b in self.layout.buffers if b.ref.name in own]
        self._fill = graph_call(loop.shared, device, kept, watched=True)
        self._programs: dict[tuple[int, int], WindowProgram] = {}
        self._orders = [torch.tensor(order, device=device) for order in self.layout.orders]
        self._channels_last = channels_last(loop, self.layout, device)
        self._pool: list[Workspace] = []
        self.making = 0.0  # seconds that the calls of a window took when they were last made
        self._lock = Lock()  # between finding a workspace in the pool and taking it

    def quantum(self, schedule: Schedule) -> int:
        """Windows begin and end at multiples of this, so that few different ones occur: rows where there are rows."""
        return quantum(schedule, self.loop.blocks, self.loop.row)

    def begin(self, env: Env, state: Tensor, watch: Watch | None = None) -> Workspace:
        """A workspace with every kept value evaluated on ``state``. Raises: `LeftError`."""
        values = dict(zip((r.key for r in self._fill.outputs), self._evaluate(env, state, watch), strict=True))
        workspace = self._acquire()
        workspace.begin(env, {**values, self.loop.carry.name: state})
        return workspace

    def end(self, workspace: Workspace) -> None:
        """Give a workspace back."""
        workspace.forget()
        with self._lock:
            if len(self._pool) < POOL:
                self._pool.append(workspace)

    def refresh(self, workspace: Workspace, state: Tensor, settled: int, hi: int, watch: Watch | None = None) -> None:
        """Bring up to date what depends on blocks from ``settled`` on and is read by blocks before ``hi``.

        Raises: `LeftError`.
        """
        workspace.run(self.prepare(workspace, settled, hi), state, watch)

    def prepare(self, workspace: Workspace, settled: int, hi: int, watch: Watch | None = None) -> Bound:
        """The calls of a window, bound to the workspace when it is first seen. Raises: `LeftError`."""
        return workspace.bind((settled, hi), lambda: bind(workspace, self._program(settled, hi, watch), watch))

    def ready(self, windows: Iterable[tuple[int, int]]) -> bool:
        """Whether the next run finds the calls of all of these."""
        inference = torch.is_inference_mode_enabled()
        with self._lock:
            workspace = next((w for w in self._pool if w.inference == inference), None)
            return workspace is not None and all(map(workspace.bound, windows))

    def rehearse(self, windows: Iterable[tuple[int, int]]) -> None:
        """Make the calls of these for runs to come."""
        workspace = self._acquire()
        for settled, hi in windows:
            self.prepare(workspace, settled, hi)
        self.end(workspace)

    def program(self, settled: int, hi: int) -> WindowProgram:
        """The instructions of a window."""
        found = self._programs.get((settled, hi))
        if found is None:
            if len(self._programs) >= PROGRAMS:
                self._programs.clear()
            found = self._programs[settled, hi] = self._windows.program(settled, hi, self.align)
        return found

    def _program(self, settled: int, hi: int, watch: Watch | None) -> WindowProgram:
        program = self.program(settled, hi)
        look(watch)
        return program

    def _evaluate(self, env: Env, state: Tensor, watch: Watch | None = None) -> tuple[Tensor, ...]:
        return self._fill.values({**env, self.loop.carry.name: state}, watch=watch)

    def _acquire(self) -> Workspace:
        inference = torch.is_inference_mode_enabled()  # its tensors cannot be written outside of it
        with self._lock:
            for position, workspace in enumerate(self._pool):
                if workspace.inference == inference:
                    return self._pool.pop(position)
        return Workspace(self.layout, self.device, self._orders, inference, self._channels_last)


def windowed_by(loop: ArrayLoop, windows: Windows, device: torch.device, align: int) -> Windowed:
    """The one of a proof: what runs of its candidates have made, the runs of the chosen one find there."""
    found: Windowed | None = windows.executors.get((device, align))
    if found is None or found.loop is not loop:
        found = windows.executors[device, align] = Windowed(loop, windows, device, align)
    return found
