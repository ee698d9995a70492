"""The user's function in its own process: the reference itself, and the weights as they are now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .capture import Captured
from .graph import TensorType
from .loops import Resume, TimedSteps, drive_loops
from .plan import WeightKind


def modes() -> dict[str, str]:
    """The process-wide settings that decide which calls a function makes."""
    return {
        "autocast": f"{torch.is_autocast_enabled('cpu')}, {torch.is_autocast_enabled('cuda')}",
        "default dtype": str(torch.get_default_dtype()),
    }


@dataclass(frozen=True, slots=True)
class Live:
    """A captured function; `stale` says what has changed since its capture."""

    function: Callable[..., Any]
    captured: Captured
    flags: Mapping[str, bool] = field(init=False)
    modes: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "flags", self.captured.surroundings.training_flags())
        object.__setattr__(self, "modes", modes())

    def reference(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the function gives, without gradients."""
        with torch.no_grad(), drive_loops(None):
            return self.function(*args, **kwargs)

    def estimated_seconds(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], budget: float) -> float:
        """How long all steps would take, from those that fit into ``budget`` seconds."""
        steps = TimedSteps(budget)
        with torch.no_grad(), drive_loops(steps):
            self.function(*args, **kwargs)
        return steps.whole

    def resume(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], done: int, state: Tensor) -> Any:
        """What the function gives if its loop's first ``done`` steps have already led to ``state``."""
        start = self.captured.program.loop.lo + done
        with torch.no_grad(), drive_loops(Resume(start, state, self.captured.in_place)):
            return self.function(*args, **kwargs)

    def weights(self) -> dict[str, Tensor]:
        """The weights as they are now: a parameter that was replaced is the new one."""
        return {name: place.fetch().detach() for name, place in self.captured.places.items()}

    def stale(self, weights: Mapping[str, Tensor], device: str) -> str | None:
        """What has changed since the capture such that the graph is no longer the function's."""
        changed = [
            name for name, flag in self.captured.surroundings.training_flags().items() if self.flags.get(name) != flag
        ]
        if changed:
            return f"training mode of {', '.join(changed[:3])} has changed"
        for name, state in modes().items():
            if self.modes[name] != state:
                return f"{name} was {self.modes[name]} and is {state}"
        for weight in self.captured.program.weights:
            now = weights[weight.name]
            kind = TensorType(str(now.dtype).removeprefix("torch."), tuple(now.shape), tuple(now.stride()))
            if kind != weight.type:
                return f"{weight.path} was {weight.type} and is {kind}"
            if now.device.type != device and weight.kind is not WeightKind.CONSTANT:
                return f"{weight.path} is on {now.device}; the plan is for {device}"
        return None
