"""``ffc doctor``."""

from __future__ import annotations

from argparse import Namespace

from ..doctor import as_data, as_text, findings
from .terminal import Terminal


def doctor(options: Namespace, terminal: Terminal) -> int:
    found = findings()
    terminal.show(as_text(found), {"findings": as_data(found)})
    return 0
