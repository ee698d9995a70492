"""The page of a plan: verdict, candidates, front, premises and program in one file that opens offline."""

from __future__ import annotations

import os
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from .dot import dot
from .explain import explain
from .files import replace_file
from .pictures import Fronts, front_svg
from .plan import Method, Plan
from .program import ArrayLoop
from .proof import NO_PROOF, Proof
from .runtime.record import RunRecord

TEMPLATE = Path(__file__).with_name("inspect.html.j2")
LEAST_SQUARE = 64  # blocks; fewer are drawn as a strip


def write_page(
    plan: Plan, path: str | os.PathLike[str], record: RunRecord | None, force: bool, proof: Proof = NO_PROOF
) -> None:
    """Write the page, or DOT text to a name in ``.dot``; an existing file is kept unless ``force``."""
    text = dot(plan) if os.fspath(path).endswith(".dot") else page(plan, record, proof)
    replace_file(path, text.encode(), force)


def page(plan: Plan, record: RunRecord | None = None, proof: Proof = NO_PROOF) -> str:
    """The page as HTML. Whatever comes from the user's code, or from a file, is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    loop = plan.array
    return template.render(
        plan=plan,
        text=str(plan.program or ""),
        explanation=explain(plan, proof),
        slowest=max((c.seconds for c in plan.candidates), default=0.0),
        record=record,
        front=front_picture(record, loop) if record and record.sweeps else None,
    )


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
