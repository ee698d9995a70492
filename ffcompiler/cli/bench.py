"""``ffc bench``."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ..bench import recurrences, samplers
from ..bench.decide.campaign import campaign as decisions
from ..bench.decide.systems import listed, select
from ..bench.harness import Moment, load_between, moment, pinned_threads
from ..errors import FFCompilerError, UsageError
from ..fuzz.campaign import campaign
from ..stored.files import replace_file
from .parser import DECIDE, FUZZ
from .targets import check_output, to_device
from .terminal import Terminal, to_json


def bench(options: Namespace, terminal: Terminal) -> int:
    if options.output:
        check_output(options.output, options.force)
    if options.benchmark == FUZZ:
        return _fuzz(options, terminal)
    if options.benchmark == DECIDE:
        return _decide(options, terminal)
    to_device(options.device)
    before = moment()
    if options.strict:
        _refuse(load_between(before, before).faults())
    report = _measured(options, terminal, before)
    data = report.to_json()
    if options.strict:
        _refuse(report.measurement.load.faults())
    if options.output:
        replace_file(options.output, (to_json(data) + "\n").encode(), options.force)
    terminal.show(str(report) + (f"\nwrote {options.output}" if options.output else ""), data)
    return 0 if report.right else 1


def _fuzz(options: Namespace, terminal: Terminal) -> int:
    path = Path(options.resume) if options.resume else None
    with terminal.progress() as say, pinned_threads(options.threads or 1):
        summary = campaign(options.programs, options.seed, path, say)
    data = summary.to_json()
    if options.output:
        replace_file(options.output, (to_json(data) + "\n").encode(), options.force)
    terminal.show(str(summary) + (f"\nwrote {options.output}" if options.output else ""), data)
    return 1 if summary.failures else 0


def _decide(options: Namespace, terminal: Terminal) -> int:
    systems = select(options.only)
    if options.list:
        terminal.show(listed(systems), {"systems": {name: s.kind for name, s in systems.items()}})
        return 0
    if to_device(options.device).type != "cpu":
        raise UsageError(f"decide is measured on the cpu, not on {options.device}")
    path = Path(options.resume) if options.resume else None
    with terminal.progress() as say, pinned_threads(options.threads):
        summary = decisions(systems, options.pairs, path, say, options.strict)
    data = summary.to_json()
    if options.strict:
        _refuse(summary.faults())
    if options.output:
        replace_file(options.output, (to_json(data) + "\n").encode(), options.force)
    terminal.show(str(summary) + (f"\nwrote {options.output}" if options.output else ""), data)
    return 0 if summary.right else 1


def _measured(options: Namespace, terminal: Terminal, before: Moment) -> samplers.Report | recurrences.Report:
    if options.benchmark in recurrences.CASES:
        with terminal.progress() as say:
            return recurrences.run(options.benchmark, options.pairs, options.threads, before, say)
    subject = samplers.SUBJECTS[options.benchmark]
    with terminal.progress() as say:
        return samplers.run(
            subject, options.batch, options.pairs, options.threads, options.device, before=before, progress=say
        )


def _refuse(faults: list[str]) -> None:
    if faults:
        raise FFCompilerError("the machine is busy, so nothing is reported (--strict): " + "; ".join(faults))
