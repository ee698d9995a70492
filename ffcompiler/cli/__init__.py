"""The command line, `ffc`: `demo | compile | explain | inspect | run | verify | bench | doctor | cache`.

Results on stdout, progress on stderr where it is a terminal. Exit codes: 0 done, 1 failed, 2 usage, 3 cannot be
parallelised where that was insisted on, 130 interrupted. Each command is a function of the parsed options; its module
is imported when it is called, so that ``ffc --help`` does not wait for torch.
"""

from __future__ import annotations

import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module

from ..errors import CaptureError, CausalityError, FFCompilerError, UsageError
from .parser import make_parser
from .terminal import Terminal

__all__ = ["main"]

DONE, FAILED, USAGE, NOT_PARALLEL, INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    parser = make_parser()
    words = sys.argv[1:] if argv is None else argv
    if not words:  # `ffc` alone: somebody looks what there is
        parser.print_help(sys.stderr)
        return USAGE
    try:
        options = parser.parse_args(words)
    except SystemExit as end:  # argparse has said what is wrong, or printed what was asked for
        return end.code if isinstance(end.code, int) else USAGE
    terminal = Terminal(json=options.json, quiet=options.quiet)
    try:
        return _run(options, terminal)
    except BrokenPipeError:  # `ffc explain ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _run(options: Namespace, terminal: Terminal) -> int:
    try:
        command = import_module(f".{options.module}", __name__)
        code: int = getattr(command, options.command)(options, terminal)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return terminal.fail("interrupted", "interrupted; files are written whole or not at all", INTERRUPTED)
    except FFCompilerError as error:
        return terminal.fail(type(error).__name__, str(error), _code(error, options))
    except BrokenPipeError:
        raise
    except Exception as error:  # raised by the user's own function, or a fault of ours: show where
        traceback.print_exc()
        return terminal.fail(type(error).__name__, str(error), FAILED)


def _code(error: FFCompilerError, options: Namespace) -> int:
    if isinstance(error, UsageError):
        return USAGE
    named = getattr(options, "schedule", "auto") != "auto" or getattr(options, "on_unsupported", None) == "raise"
    insisted = named or getattr(options, "require_parallel", False)
    if isinstance(error, CausalityError) or (isinstance(error, CaptureError) and insisted):
        return NOT_PARALLEL
    return FAILED
