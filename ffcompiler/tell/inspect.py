"""The page of a plan: verdict, candidates, front, premises and program in one file that opens offline."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from ..choice.processors import Simulation
from ..plan import Method, Plan
from ..program import ArrayLoop
from ..proof import Proof
from ..runtime.record import RunRecord
from ..stored.files import replace_file
from .dot import dot
from .explain import Explanation, explain
from .pictures import Fronts, front_svg

TEMPLATE = Path(__file__).with_name("inspect.html.j2")
LEAST_SQUARE = 64  # blocks; fewer are drawn as a strip


@dataclass(frozen=True, slots=True)
class Part:
    """What the page shows of one part; of most plans there is no other."""

    plan: Plan
    explanation: Explanation
    record: RunRecord | None

    @property
    def text(self) -> str:
        return str(self.plan.program or "")

    @property
    def slowest(self) -> float:
        return max((c.seconds for c in self.plan.candidates), default=0.0)

    @property
    def front(self) -> str | None:
        return front_picture(self.record, self.plan.array) if self.record and self.record.sweeps else None


def write_page(
    plan: Plan,
    path: str | os.PathLike[str],
    record: RunRecord | None,
    force: bool,
    *proofs: Proof,
    simulated: Sequence[Simulation] = (),
) -> None:
    """Write the page, or DOT text to a name in ``.dot``; an existing file is kept unless ``force``."""
    text = dot(plan) if os.fspath(path).endswith(".dot") else page(plan, record, *proofs, simulated=simulated)
    replace_file(path, text.encode(), force)


def page(plan: Plan, record: RunRecord | None = None, *proofs: Proof, simulated: Sequence[Simulation] = ()) -> str:
    """The page as HTML. Whatever comes from the user's code, or from a file, is escaped.

    ``proofs``, and simulations if there are any, are those of the plan's parts. A record of a run that was not made
    part by part is shown as one.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    explanation = explain(plan, *proofs, simulated=simulated)
    records = record.parts if record is not None and len(record.parts) == len(plan.parts) else ()
    told = zip_longest(plan.parts, explanation.parts or (explanation,), records)
    return template.render(plan=plan, explanation=explanation, record=record, parts=[Part(*part) for part in told])


def front_picture(record: RunRecord, loop: ArrayLoop | None) -> str:
    """The fronts of a run as SVG: in rows where the loop's positions have them, else as a strip.

    Blocks that were sorted by level are not in rows.
    """
    by_level = record.schedule.startswith(Method.WAVEFRONT.value)
    columns = None if by_level else _columns(loop, record.blocks)
    return front_svg(Fronts(tuple(record.fronts), record.blocks), columns)


def _columns(loop: ArrayLoop | None, blocks: int) -> int | None:
    """Blocks in a row: the innermost axis of a raster scan, or the side of a square."""
    if loop is not None and len(loop.write.axes) > 1:
        return loop.row if loop.row > 1 else None
    side = round(blocks**0.5)
    return side if side * side == blocks >= LEAST_SQUARE else None
