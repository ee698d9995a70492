"""Many recorded steps to one: the same calls at every step, and a table for each number that differs."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import CaptureError
from .facts import exact_number
from .record import Call, Segment, Tested


@dataclass(slots=True)
class Steps:
    """The first step as template, and what every step had in place of its numbers."""

    template: Segment | None = None
    rows: list[tuple[int | float, ...]] = field(default_factory=list)

    def add(self, step: int, segment: Segment) -> None:
        """Take in the next step. Raises `CaptureError` where it does not do what the first one did."""
        if self.template is None:
            self.template = segment
        else:
            self.confirm(step, segment)
        self.rows.append(tuple(segment.numbers))

    def confirm(self, step: int, segment: Segment) -> None:
        """The calls and the results of ``segment`` are those of the template."""
        assert self.template is not None
        if segment.calls == self.template.calls and segment.results == self.template.results:
            return
        raise CaptureError(_difference(step, self.template, segment))

    def confirm_numbers(self, position: int, step: int, segment: Segment) -> None:
        """The numbers of a repeated step are those of the first time."""
        self.confirm(step, segment)
        for index, (was, now) in enumerate(zip(self.rows[position], segment.numbers, strict=True)):
            if exact_number(was) != exact_number(now):
                raise CaptureError(
                    f"step {step} used the number {was!r} the first time and {now!r} the second, with other inputs\n"
                    f"  at {self._source_of(index)}\n"
                    "  the function depends on something besides its arguments (a counter, numpy, random, a file), or "
                    "takes a number out of them (.tolist(), .numpy())\n"
                    "  pass it as an argument, and keep it in a tensor"
                )

    def columns(self) -> list[tuple[int | float, ...]]:
        """For each number of the template, its value at every step."""
        return list(zip(*self.rows, strict=True))

    def _source_of(self, index: int) -> str:
        assert self.template is not None
        for call, source in zip(self.template.calls, self.template.sources, strict=True):
            if f"Number(index={index}," in f"{call.args}{call.kwargs}" or f"first={index})" in f"{call.args}":
                return f"{call.op} at {source}"
        return "an unknown place"


def _difference(step: int, template: Segment, segment: Segment) -> str:
    for was, now, source in zip(template.calls, segment.calls, template.sources, strict=False):
        if was != now:
            return f"step {step} differs from the first step at {source}\n{_describe(was, now)}"
    if len(template.calls) != len(segment.calls):
        return (
            f"step {step} makes {len(segment.calls)} operator calls where the first step makes {len(template.calls)}\n"
            "  the compiled loop has one body; move what is special about a step out of the loop"
        )
    return (
        f"step {step} hands on its state in another way than the first step: {segment.results} against "
        f"{template.results}\n  return the new state of every step in the same form"
    )


def _describe(was: Call, now: Call) -> str:
    if isinstance(was.op, Tested) or isinstance(now.op, Tested):
        return (
            "  tests on values come out otherwise, or are others; the compiled loop has one body, which goes one way "
            "in all steps: keep the decision in tensors (torch.where)"
        )
    if was.op != now.op:
        return (
            f"  it calls {now.op} where the first step calls {was.op}; every step must make the same calls\n"
            "  move what is special out of the loop, or multiply by a number made from the step's, as float(i > 0)"
        )
    if was.types != now.types:
        return (
            f"  {now.op} gives {now.types} there and {was.types} in the first step\n"
            "  shapes that grow or shrink from step to step are not compiled yet; index a full-size array instead"
        )
    return f"  {now.op} reads other values than in the first step; keep the state of the loop in what the body returns"
