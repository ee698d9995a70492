"""The graph of a plan as DOT text."""

from __future__ import annotations

from plans import MADE, NO_PROGRAM, TWO_PARTS

from ffcompiler.tell.dot import dot
from ffcompiler.tell.inspect import write_page


def test_every_operator_is_a_box_in_the_cluster_of_its_graph() -> None:
    text = dot(MADE)
    assert MADE.program is not None
    assert MADE.system is not None
    for node in (*MADE.program.prologue.nodes, *MADE.system.shared.nodes, *MADE.system.tail.nodes):
        assert f"{node.name} = {node.op}" in text
    assert all(f"subgraph cluster_{name}" in text for name in ("prologue", "invariant", "shared", "tail", "epilogue"))


def test_edges_go_from_what_is_read_to_what_reads_it() -> None:
    assert MADE.system is not None
    node = MADE.system.shared.nodes[-1]
    ref = next(node.refs())
    assert f"{ref.name} -> {node.name}" in dot(MADE)


def test_parts_are_drawn_apart_and_what_is_handed_on_leads_from_one_to_the_next() -> None:
    text = dot(TWO_PARTS)
    for name in ('"cluster_part1.shared"', '"cluster_part2.body"', '"part1.z1"', '"part2.z1"'):
        assert name in text
    assert '"part1.z1" -> "part2.a0"' in text and '"part1.noise" -> "part2.a1"' in text
    assert '"part2.a1" -> "part2.b3"' in text


def test_a_plan_without_a_program_says_why(tmp_path) -> None:  # type: ignore[no-untyped-def]
    write_page(NO_PROGRAM, tmp_path / "plan.dot", None, False)
    assert "digraph plan" in (tmp_path / "plan.dot").read_text()
