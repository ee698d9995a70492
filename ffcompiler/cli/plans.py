"""``ffc explain`` and ``ffc inspect``: a plan for people to read."""

from __future__ import annotations

from argparse import Namespace

from ..errors import UsageError
from .targets import check_output, open_target
from .terminal import Terminal


def explain(options: Namespace, terminal: Terminal) -> int:
    with terminal.progress() as say:
        compiled, call = open_target(options, say)
        args, kwargs = (None, None) if call is None else (call.args, call.kwargs)
        explanation = compiled.explain(options.processors, args, kwargs, say)
    terminal.show(str(explanation), {"target": options.target, **explanation.json})
    return 0


def inspect(options: Namespace, terminal: Terminal) -> int:
    if options.output:
        check_output(options.output, options.force)
    with terminal.progress() as say:
        compiled, call = open_target(options, say)
    data = {"target": options.target, **compiled.explain().json, "plan": str(compiled.plan)}
    if options.output is None and options.processors:
        raise UsageError("--processors of inspect is for a page: give -o PAGE.html, or use ffc explain")
    if options.output is None:
        terminal.show(str(compiled.plan), data)
        return 0
    record = compiled.run(*call.args, **call.kwargs)[1] if call is not None else None
    args, kwargs = (None, None) if call is None else (call.args, call.kwargs)
    compiled.inspect(options.output, record, options.force, options.processors, args, kwargs)
    record_data = None if record is None else record.to_json()
    terminal.show(f"wrote {options.output}", {**data, "output": options.output, "record": record_data})
    return 0
