"""The graph of a plan as DOT text."""

from __future__ import annotations

from plans import MADE, NO_PROGRAM

from ffcompiler.dot import dot
from ffcompiler.inspect import write_page


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


def test_a_plan_without_a_program_says_why(tmp_path) -> None:  # type: ignore[no-untyped-def]
    write_page(NO_PROGRAM, tmp_path / "plan.dot", None, False)
    assert "digraph plan" in (tmp_path / "plan.dot").read_text()
