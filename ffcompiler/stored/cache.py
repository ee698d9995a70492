"""The plan cache: what earlier compilations chose and measured, a file each, so that it need not be measured again.

A file is data and is never believed. Its plan has to equal the one that was captured and proved just now in everything
but what calibration decides (`UNDECIDED`), and its circumstances (`circumstances.py`) those of now; a file that is
damaged, foreign or too old is passed over and replaced. Files are written whole or not at all (`files.py`), so
processes may share a folder. No torch: `ffc cache` need not wait for it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import ArtifactError, FFCompilerError, InvalidPlanError, UsageError
from ..plan import Method, Plan, Schedule
from ..rules.verify import verify
from ..tell.parts import seconds_of
from ..written.codec import MAX_BYTES, decode, encode
from .files import STALE_SECONDS, replace_file

FORMAT = 1
UNDECIDED: Mapping[str, Any] = {
    "schedule": Schedule(Method.SEQUENTIAL),
    "why": "",
    "costs": None,
    "candidates": (),
    "convergence": None,
    "alternatives": (),
}
"""The fields of a plan that calibration decides, as they are before; only these may come from a file of the cache."""
DAY = 86400
EXPIRES = 30 * DAY  # seconds after the measurement: the machine may do other work by then
LIMIT_BYTES = 256 * 2**20  # of all files of a folder; the least recently used go first
_NAME = re.compile(r"[0-9a-f]{32}\.plan")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a choice depends on besides the plan: options of the compiler, values of the weights, the machine."""

    options: tuple[tuple[str, str], ...]
    weights: str  # SHA-256 over all of them
    settings: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """The plan for which a choice is to be made, captured and proved, and the circumstances."""

    plan: Plan
    circumstances: Circumstances

    @property
    def key(self) -> str:
        """What names the file. Raises: `InvalidPlanError` for a plan that no file can hold."""
        return hashlib.sha256(encode(_undecided(self.plan)) + encode(self.circumstances)).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Head:
    """What a file says of itself, before its plan."""

    format: int
    function: str
    measured: float  # seconds since 1970
    load: str  # of the machine, at the end of the measurement
    device: str
    schedule: str
    speedup: float | None  # over the reference, as it was measured
    circumstances: Circumstances

    @property
    def day(self) -> str:
        return f"{datetime.fromtimestamp(self.measured, UTC):%Y-%m-%d %H:%M} UTC"

    @property
    def expired(self) -> bool:
        """Too old; or from a future, of which only a clock that was wrong can tell."""
        return not -DAY <= now() - self.measured <= EXPIRES


@dataclass(frozen=True, slots=True)
class Found:
    """A choice from the cache."""

    plan: Plan
    head: Head


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the cache; ``head`` is None if it cannot be read."""

    key: str
    bytes: int
    head: Head | None


def now() -> float:
    return time.time()


@dataclass(frozen=True, slots=True)
class PlanCache:
    """The files of one folder, which need not exist yet."""

    folder: Path
    limit_bytes: int = LIMIT_BYTES

    def look_up(self, asked: Asked) -> Found | None:
        """What was chosen before under the same circumstances, if that is known; whatever is in the file, no error."""
        try:
            path = self._path(asked.key)
            found = _checked(_read(path), asked)
        except FileNotFoundError:
            return None
        except InvalidPlanError as fault:  # of the plan that is asked for
            _log.info("this plan cannot be cached: %s", fault)
            return None
        except (OSError, ArtifactError) as fault:
            _log.warning("%a is passed over and will be replaced: %s", str(path), _first_line(fault))
            return None
        if found is not None:
            with suppress(OSError):
                os.utime(path)  # used now: the last to be removed
        return found

    def keep(self, asked: Asked, plan: Plan, function: str, load: str) -> None:
        """Store the choice that was made, if it can be given back as it is; where nothing can be written, no error."""
        if plan == asked.plan or _decided(asked.plan, plan) != plan:  # no choice; or more, that calibration has refused
            return
        try:
            head = _head(asked, plan, function, load)
            path, data = self._path(asked.key), _to_bytes(head, plan)
            _checked(data, asked)  # too large, or in another way not to be read
            if len(data) > self.limit_bytes:
                return
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, data, force=True)
            self._trim()
        except (OSError, FFCompilerError) as fault:
            _log.info("this plan cannot be cached: %s", _first_line(fault))

    def entries(self) -> list[Entry]:
        """All files, the last measured one first."""
        found = [Entry(path.stem, size, _readable_head(path)) for path, size, _ in self._files()]
        return sorted(found, key=lambda e: (e.head.measured if e.head else 0.0, e.key), reverse=True)

    def clear(self, keys: Sequence[str] = ()) -> int:
        """Remove the files whose names begin with these keys, or all; how many there were.

        Raises: `UsageError` for a key that is the beginning of no name, or of several; then nothing is removed.
        """
        paths = [path for path, _, _ in self._files()]
        chosen = {self._named(key, paths) for key in keys} if keys else set(paths)
        _remove(chosen)
        _remove(self._left_behind())
        return len(chosen)

    def _named(self, key: str, paths: Iterable[Path]) -> Path:
        matching = [path for path in paths if path.stem.startswith(key.lower())]
        if len(matching) != 1 or not key:
            what = f"{len(matching)} plans have keys that begin" if matching else "no plan has a key that begins"
            raise UsageError(f"{what} with {key!a} in {str(self.folder)!a}; `ffc cache ls` shows the keys")
        return matching[0]

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.plan"

    def _files(self) -> Iterator[tuple[Path, int, float]]:
        """Path, size, and when it was last used, of each file."""
        yield from _status(path for path in _within(self.folder) if _NAME.fullmatch(path.name))

    def _left_behind(self) -> list[Path]:
        """Temporaries of processes that ended while they wrote."""
        temporaries = (p for p in _within(self.folder) if p.name.startswith(".ffc-") and p.name.endswith(".tmp"))
        return [path for path, _, written in _status(temporaries) if now() - written > STALE_SECONDS]

    def _trim(self) -> None:
        """Remove what has expired, and the least recently used files above the limit."""
        total = 0
        for path, size, used in sorted(self._files(), key=lambda file: file[2], reverse=True):
            total += size
            if total > self.limit_bytes or now() - used > EXPIRES:
                _remove([path])
        _remove(self._left_behind())


# ---------------------------------------------------------------------------------------------------- where


def plan_cache(cache: bool | str | os.PathLike[str]) -> PlanCache | None:
    """The cache that the argument of `compile` asks for: a folder, or whether to use the usual one.

    None where it is switched off (FFCOMPILER_CACHE=0 switches off every one), or there is no home folder to keep it in.
    Raises: `UsageError` for another value of FFCOMPILER_CACHE, or a ``cache`` that is no folder.
    """
    switch = os.environ.get("FFCOMPILER_CACHE", "1")
    if switch not in ("", "0", "1"):
        raise UsageError(f"FFCOMPILER_CACHE is {switch!a}; it is 0 (no plan cache) or 1, and XDG_CACHE_HOME says where")
    if not isinstance(cache, bool | str | os.PathLike):
        raise UsageError(f"cache is {cache!a}; it is True, False, or a folder")
    if switch == "0" or cache is False:
        return None
    folder = usual_folder() if cache is True else Path(cache)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UsageError(f"cache: {str(folder)!a} is not a folder")
    return None if folder is None else PlanCache(folder)


def usual_folder() -> Path | None:
    """``$XDG_CACHE_HOME/ffcompiler``, by default ``~/.cache/ffcompiler``; None without a home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):  # one that is not is to be ignored, says the standard
        return Path(given) / "ffcompiler"
    try:
        return Path.home() / ".cache" / "ffcompiler"
    except RuntimeError:
        return None


# ---------------------------------------------------------------------------------------------------- plans


def _undecided(plan: Plan) -> Plan:
    """``plan`` as it was before calibration, without the places in the user's files: those may move."""
    rest = None if plan.rest is None else _undecided(plan.rest)
    bare: Plan = _without_sources(replace(plan, **UNDECIDED, rest=rest))
    return bare


def _without_sources(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple([_without_sources(v) if isinstance(v, tuple) or is_dataclass(v) else v for v in value])
    if not is_dataclass(value) or isinstance(value, type):
        return value
    now = {field.name: getattr(value, field.name) for field in fields(value)}
    bare = {name: "" if name == "source" else _without_sources(v) for name, v in now.items()}
    return replace(value, **{name: v for name, v in bare.items() if v is not now[name]})


def _decided(plan: Plan, by: Plan) -> Plan:
    """``plan`` with what was decided in ``by``, and nothing else of it."""
    rest = plan.rest if plan.rest is None or by.rest is None else _decided(plan.rest, by.rest)
    return replace(plan, **{name: getattr(by, name) for name in UNDECIDED}, rest=rest)


def _checked(data: bytes, asked: Asked) -> Found | None:
    """What the file gives for the plan that is asked for; None if it has expired.

    Raises: `ArtifactError` for a file that is not such a file, or another plan's.
    """
    head_bytes, plan_bytes = _parts(data)
    head, stored = _decoded_head(head_bytes), decode(plan_bytes, Plan)
    if head.circumstances != asked.circumstances or _undecided(stored) != _undecided(asked.plan):
        raise ArtifactError("it holds another plan than its name says")
    try:
        plan = verify(_decided(asked.plan, stored))
    except InvalidPlanError as fault:
        raise ArtifactError(f"its plan is not a valid one: {fault}") from None
    return None if head.expired else Found(plan, head)


def _head(asked: Asked, plan: Plan, function: str, load: str) -> Head:
    schedules = "; ".join(str(part.schedule) for part in plan.parts)
    return Head(FORMAT, function, now(), load, plan.device, schedules, _speedup(plan), asked.circumstances)


def _speedup(plan: Plan) -> float | None:
    """The reference's seconds over those of the schedules, of the parts that were measured."""
    known = [seconds for part in plan.parts if (seconds := seconds_of(part)) is not None]
    chosen = sum(a for a, _ in known)
    return sum(b for _, b in known) / chosen if chosen else None


# ---------------------------------------------------------------------------------------------------- files


def _to_bytes(head: Head, plan: Plan) -> bytes:
    """Three lines: the SHA-256 of the other two, the head, and the plan."""
    content = encode(head) + b"\n" + encode(_without_sources(plan)) + b"\n"
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def _parts(data: bytes) -> tuple[bytes, bytes]:
    """Head and plan. Raises: `ArtifactError` for a file that is not whole."""
    digest, _, content = data.partition(b"\n")
    lines = content.split(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != digest or len(lines) != 3:
        raise ArtifactError("it is damaged, or no file of the plan cache")
    return lines[0], lines[1]


def _decoded_head(data: bytes) -> Head:
    head = decode(data, Head)
    if head.format != FORMAT:
        raise ArtifactError(f"it has format {head.format}; this ffcompiler reads {FORMAT}")
    return head


def _readable_head(path: Path) -> Head | None:
    try:
        return _decoded_head(_parts(_read(path))[0])
    except (OSError, ArtifactError):
        return None


def _read(path: Path) -> bytes:
    """Raises: `OSError`; `ArtifactError` for what can be no file of the cache."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > 2 * MAX_BYTES:
        raise ArtifactError("it is no file of the plan cache")
    return path.read_bytes()


def _within(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _status(paths: Iterable[Path]) -> Iterator[tuple[Path, int, float]]:
    for path in paths:
        with suppress(OSError):  # another process may have removed it
            status = path.lstat()
            yield path, status.st_size, status.st_mtime


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()


def _first_line(fault: Exception) -> str:
    return str(fault).splitlines()[0]
