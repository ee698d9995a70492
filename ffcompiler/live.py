"""The user's function in its own process: the reference itself, and the weights as they are now."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .capture import Captured, held_at, look
from .capture.captured import Place
from .capture.facts import span_of
from .capture.surroundings import View
from .graph import TensorType
from .loops import Resume, TimedSteps, drive_loops, is_driven
from .modes import Ambient, ambient, ambient_change
from .plan import Plan
from .program import Weight
from .runtime.equality import same_bits
from .runtime.guard import Handover


@dataclass(frozen=True, slots=True)
class Live:
    """A captured function; `now` says what has changed since its capture."""

    function: Callable[..., Any]
    captured: Captured
    modes: Ambient = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "modes", ambient())

    def reference(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the function gives, without gradients."""
        if not torch.is_grad_enabled() and not is_driven():  # as it is: to say so takes as long as an operator
            return self.function(*args, **kwargs)
        with torch.no_grad(), drive_loops(None):
            return self.function(*args, **kwargs)

    def estimated_seconds(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], budget: float) -> float:
        """How long all steps would take, from those that fit into ``budget`` seconds; a plain loop is run whole."""
        steps, started = TimedSteps(budget), time.perf_counter()
        try:
            with torch.no_grad(), drive_loops(steps):
                self.function(*args, **kwargs)
        except Exception:
            if not steps.cut:  # else what comes after the loop was given a state that is not the last
                raise
        return steps.whole or time.perf_counter() - started

    def handover(self, plan: Plan) -> Handover:
        """Who does the rest where sweeps end early: of several loops captured steps, there being no way back.

        The user's own loop is begun in its middle if it is marked, has been seen to go on from there as it does from
        its beginning, and does not draw: the numbers of all its steps are drawn already. Not if steps leave what has to
        be looked at. Where it writes into its first state, what that must hold then is known of array loops only.
        """
        if plan.rest is not None:
            return Handover.ONWARD
        program = plan.program
        if plan.padded and plan.array is not None:
            return Handover.CACHED
        if not self.captured.marked or program is None or program.draws or program.loop.collected:
            return Handover.CAPTURED
        return Handover.RESUMED if plan.array is not None or not self.captured.in_place else Handover.CAPTURED

    def resume(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], done: int, state: tuple[Tensor, ...]) -> Any:
        """What the function gives if its loop's first ``done`` steps have already led to ``state``."""
        start = self.captured.program.loop.lo + done
        with torch.no_grad(), drive_loops(Resume(start, state, self.captured.in_place)):
            return self.function(*args, **kwargs)

    def weights(self, part: int = 0) -> dict[str, Tensor]:
        """The weights of one part as they are now: a parameter that was replaced is the new one."""
        return self.captured.parts[part].weights(look(self.function))

    def all_weights(self) -> tuple[dict[str, Tensor], ...]:
        """Those of every part."""
        return _weights(self.captured, look(self.function))

    def write(self, values: Mapping[str, Tensor]) -> None:
        """Leave the weights as the function's own steps would: its writes into them were made before the loop."""
        if not values:
            return
        tensors = look(self.function).tensors
        for name, value in values.items():
            weight = tensors[self.captured.places[name].paths[0]]
            if name in self.captured.rebound:
                weight.data = value.clone()
            else:
                weight.data.copy_(value)

    def leave(self, values: Mapping[str, Tensor]) -> None:
        """Leave ``values``, by path, in the attributes and entries in which the function would."""
        if self.captured.left:
            view = look(self.function)
            for left in self.captured.left:
                left.put(view, values)

    def standing(self) -> list[tuple[str, Any]]:
        """What stands now where calls leave something, by the name of the place."""
        view = look(self.function) if self.captured.left else View()
        return [(left.spot.name, held_at(view, left.spot)) for left in self.captured.left]

    def now(self, device: str, arguments: Sequence[Tensor] = ()) -> tuple[tuple[dict[str, Tensor], ...], str | None]:
        """The weights of each part now, and what has changed such that the graph is no longer the function's."""
        view = look(self.function)
        stale = view.changes(self.captured.others)
        if stale is None:
            stale = ambient_change(self.modes, ambient())
        if stale is None:
            folded = self.captured.folded.items()
            changed = [path for path, was in folded if not _as_it_was(view.tensors.get(path), was)]
            stale = f"{changed[0]} has changed, and its values are numbers in the program" if changed else None
        if stale is None:
            used = [(part.places[w.name], w) for part in self.captured.parts for w in part.program.weights]
            stale = next(filter(None, (self._fault(place, w, view, device) for place, w in used)), None)
        if stale is None:
            stale = self._shared(view, arguments)
        return (() if stale is not None else _weights(self.captured, view)), stale

    def _shared(self, view: View, arguments: Sequence[Tensor]) -> str | None:
        """Why what steps write into a weight is seen under another name, too."""
        parts = self.captured.parts
        written = {part.places[o.weight].paths[0] for part in parts for o in part.program.overwrites}
        if not written:
            return None
        read = {place.paths[0] for part in parts for place in part.places.values() if place.paths}
        spans = [(path, span_of(view.tensors[path])) for path in sorted(read)]
        spans += [("an argument", span_of(t)) for t in arguments]
        for path, (start, end) in spans:
            others = (other for other, (a, b) in spans if other != path and a < end and start < b)
            if path in written and (other := next(others, None)) is not None:
                return f"{path}, which steps write, shares its memory with {other}"
        return None

    def _fault(self, place: Place, weight: Weight, view: View, device: str) -> str | None:
        """Why a weight is no longer what the graph takes it for."""
        paths = place.paths
        if not paths:
            return None
        found = [view.tensors.get(path) for path in paths]
        now = found[0]
        if now is None or any(t is not now for t in found):
            return f"{', '.join(paths)} {'were one tensor and are not' if len(paths) > 1 else 'is gone'}"
        kind = TensorType(str(now.dtype).removeprefix("torch."), tuple(now.shape), tuple(now.stride()))
        if kind != weight.type:
            return f"{weight.path} was {weight.type} and is {kind}"
        return f"{weight.path} is on {now.device}; the plan is for {device}" if now.device.type != device else None


def _weights(captured: Captured, view: View) -> tuple[dict[str, Tensor], ...]:
    return tuple(part.weights(view) for part in captured.parts)


def _as_it_was(now: Tensor | None, was: Tensor) -> bool:
    return now is not None and now.shape == was.shape and now.dtype == was.dtype and same_bits(now, was)
