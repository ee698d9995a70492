"""``ffc compile``: a function to an artifact on disk."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from ..compiled import Compiled
from ..errors import CausalityError, FFCompilerError
from .inputs import parse_inputs
from .targets import check_output, compile_target, example_call, find_function
from .terminal import Terminal, stopwatch


def compile(options: Namespace, terminal: Terminal) -> int:  # noqa: A001 - named after the command
    output = options.output or options.function.rpartition(":")[2].rpartition(".")[2] + ".ffc"
    check_output(output, options.force)
    function = find_function(options.function)
    call = example_call(function, options.function, parse_inputs(options.input), options.device)
    with stopwatch() as seconds, terminal.progress() as say:
        compiled = compile_target(function, call, options, say)
        spent = seconds()
    _insist(compiled, options.require_parallel)
    if compiled.plan.program is None:
        raise FFCompilerError(
            f"the function could not be captured, so there is nothing to save\n{compiled.plan.refusal}"
        )
    compiled.save(output, force=options.force)
    terminal.show(_text(compiled, output, spent), _data(compiled, output, spent))
    return 0


def _insist(compiled: Compiled, parallel: bool) -> None:
    """One loop of several is enough: that others run sequentially is said, and may well be the fastest."""
    parts = compiled.plan.parts
    if parallel and not any(part.schedule.sweeps for part in parts):
        reason = "\n".join(dict.fromkeys(part.refusal or part.why for part in parts))
        raise CausalityError(f"it would run sequentially, and --require-parallel was given; nothing is saved\n{reason}")


def _text(compiled: Compiled, output: str, seconds: float) -> str:
    explanation = compiled.explain()
    why = [f"  {line}" for text in explanation.why[: len(explanation.parts) or 1] for line in text.splitlines()]
    before = "" if compiled.measured is None else f"; the choice is that of {compiled.measured}, from the plan cache"
    return "\n".join([explanation.verdict, *why, f"wrote {output} (compiled in {seconds:.1f} s{before})"])


def _data(compiled: Compiled, output: str, seconds: float) -> dict[str, Any]:
    facts = {"output": output, "seconds": seconds, "device": compiled.plan.device, "measured": compiled.measured}
    return {**facts, **compiled.explain().json}
