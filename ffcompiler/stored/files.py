"""Replacing a file whole or not at all: write beside it, flush to disk, rename, flush the folder."""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import UsageError

STALE_SECONDS = 3600  # a temporary file this old was left by a process that ended


def replace_file(path: str | os.PathLike[str], data: bytes, force: bool = False) -> None:
    """Make ``path`` hold ``data``; whatever happens on the way, it holds the old or the new content, whole.

    Raises:
        UsageError: when the file exists and ``force`` is not given, or it cannot be written.
    """
    target = Path(os.path.realpath(path))
    with _plain_errors(target):
        mode = _mode_of_old(target, force)
        _remove_stale(target)
        temporary = target.parent / f"{_prefix(target)}{os.getpid()}-{secrets.token_hex(4)}.tmp"
        try:
            _write_through(temporary, data, mode)
            _mode_of_old(target, force)  # it may have come into being meanwhile
            os.replace(temporary, target)
            _flush_folder(target.parent)
        except BaseException:  # an interrupt as well
            with suppress(OSError):
                os.unlink(temporary)
            raise


@contextmanager
def _plain_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        reason = fault.strerror or type(fault).__name__
        raise UsageError(f"cannot write {str(target)!a}: {reason}; choose another place or make room there") from fault


def _mode_of_old(target: Path, force: bool) -> int | None:
    """The permissions of the file that is to be replaced, if there is one and it may be."""
    try:
        old = os.stat(target)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(old.st_mode):
        raise UsageError(f"{str(target)!a} is not an ordinary file; choose another name")
    if not force:
        raise UsageError(f"{str(target)!a} exists; choose another name, or replace it with force=True (--force)")
    return stat.S_IMODE(old.st_mode)


def _write_through(path: Path, data: bytes, mode: int | None) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    if mode is not None:
        os.chmod(path, mode)


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system can open a folder."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------------------------------------------- temporaries


def _prefix(target: Path) -> str:
    """How the temporaries of ``target`` made on this machine begin; short, whatever the length of its name."""
    digests = (hashlib.sha256(os.fsencode(text)).hexdigest()[:12] for text in (target.name, platform.node()))
    return f".ffc-{'-'.join(digests)}-"


def _remove_stale(target: Path) -> None:
    """Remove the temporaries that ended processes left beside ``target``."""
    prefix = _prefix(target)
    for entry in os.scandir(target.parent):
        if entry.name.startswith(prefix) and entry.name.endswith(".tmp"):
            with suppress(OSError):
                pid = entry.name.removeprefix(prefix).partition("-")[0]
                if time.time() - entry.stat().st_mtime > STALE_SECONDS or not _is_running(pid):
                    os.unlink(entry.path)


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError, ValueError):
        return False
    except PermissionError:
        return True
    return True
