"""A file is replaced whole or not at all, and nothing is left beside it."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ffcompiler.errors import UsageError
from ffcompiler.stored import files
from ffcompiler.stored.files import replace_file

OLD, NEW = b"old", b"new content"
STEPS = ["open", "fdopen", "fsync", "chmod", "replace", "fsync-folder", "close"]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "made.ffc"
    path.write_bytes(OLD)
    return path


def fail_at(step: str, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one of the system calls of `replace_file` fail."""
    name, _, folder = step.partition("-")
    real = getattr(os, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if not folder or stat.S_ISDIR(os.fstat(args[0]).st_mode):
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(files.os, name, call)


def refusal(path: Path, force: bool = False) -> str:
    with pytest.raises(UsageError) as caught:
        replace_file(path, NEW, force)
    assert str(caught.value).isprintable()
    return str(caught.value)


def leave_temporary(target: Path, pid: int, age: float = 0) -> Path:
    """A temporary as a process that was ended in the middle leaves it."""
    path = target.parent / f"{files._prefix(target)}{pid}-00.tmp"
    path.write_bytes(b"half")
    os.utime(path, (path.stat().st_atime - age, path.stat().st_mtime - age))
    return path


def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_a_new_file_is_written(tmp_path: Path) -> None:
    replace_file(tmp_path / "made.ffc", NEW)
    assert (tmp_path / "made.ffc").read_bytes() == NEW
    assert os.listdir(tmp_path) == ["made.ffc"]


def test_an_existing_file_is_replaced_only_by_force(target: Path) -> None:
    assert "exists; choose another name, or replace it with force=True" in refusal(target)
    assert target.read_bytes() == OLD
    replace_file(target, NEW, force=True)
    assert target.read_bytes() == NEW


def test_permissions_and_links_survive(target: Path) -> None:
    target.chmod(0o640)
    link = target.parent / "link.ffc"
    link.symlink_to(target)
    replace_file(link, NEW, force=True)
    assert link.is_symlink()
    assert target.read_bytes() == NEW
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device"), MemoryError()]
)
@pytest.mark.parametrize("step", STEPS)
def test_a_failure_at_any_step_leaves_one_whole_file(
    step: str, error: BaseException, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(step, error, monkeypatch)
    with pytest.raises(UsageError if isinstance(error, OSError) else type(error)) as caught:
        replace_file(target, NEW, force=True)
    monkeypatch.undo()
    assert not isinstance(error, OSError) or "No space left on device; choose another place" in str(caught.value)
    assert os.listdir(target.parent) == [target.name]
    assert target.read_bytes() == (NEW if step in {"fsync-folder", "close"} else OLD)


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "made.ffc"
    real = files._write_through

    def write_both(*args: Any) -> None:
        real(*args)
        path.write_bytes(OLD)

    monkeypatch.setattr(files, "_write_through", write_both)
    assert "exists" in refusal(path)
    assert path.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["made.ffc"]


def test_temporaries_of_ended_processes_are_removed(target: Path) -> None:
    left = [leave_temporary(target, dead_pid()), leave_temporary(target, os.getpid(), age=files.STALE_SECONDS + 60)]
    replace_file(target, NEW, force=True)
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize("pid", ["0x", "99999999999999999999", "-"])
def test_temporaries_with_an_impossible_process_are_removed(pid: str, target: Path) -> None:
    left = leave_temporary(target, pid)  # type: ignore[arg-type]
    replace_file(target, NEW, force=True)
    assert not left.exists()


def test_temporaries_of_others_stay(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = leave_temporary(target, os.getppid())
    other = leave_temporary(target.parent / "other.ffc", dead_pid())
    monkeypatch.setattr(files.platform, "node", lambda: "another-machine")
    elsewhere = leave_temporary(target, dead_pid())
    monkeypatch.undo()
    replace_file(target, NEW, force=True)
    assert all(path.exists() for path in (running, other, elsewhere))


def test_a_process_that_is_killed_leaves_the_old_file_and_the_next_one_cleans_up(target: Path) -> None:
    program = (
        "import os, sys; from ffcompiler.stored import files; "
        "files.os.replace = lambda *a: os._exit(9); files.replace_file(sys.argv[1], b'x', True)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", program, str(target)], cwd=Path(__file__).parent.parent, check=False
        ).returncode
        == 9
    )
    assert target.read_bytes() == OLD
    assert len(os.listdir(target.parent)) == 2
    replace_file(target, NEW, force=True)
    assert os.listdir(target.parent) == [target.name]


def test_threads_that_write_one_file_leave_one_whole_content(target: Path) -> None:
    contents = [bytes([i]) * 10_000 for i in range(8)]
    threads = [threading.Thread(target=replace_file, args=(target, content, True)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() in contents
    assert os.listdir(target.parent) == [target.name]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written_is_one_clear_line(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at("open", OSError(code, os.strerror(code)), monkeypatch)
    assert f"{os.strerror(code)}; choose another place" in refusal(tmp_path / "made.ffc")


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (lambda folder: folder, "is not an ordinary file"),
        (lambda folder: folder / "missing" / "made.ffc", "No such file or directory"),
        (lambda folder: folder / ("m" * 300), "File name too long"),
        (lambda folder: Path("/dev/null"), "is not an ordinary file"),
    ],
)
def test_a_place_that_cannot_hold_a_file_is_one_clear_line(
    place: Callable[[Path], Path], why: str, tmp_path: Path
) -> None:
    assert why in refusal(place(tmp_path), force=True)


def test_a_name_as_long_as_the_system_allows_can_be_written(tmp_path: Path) -> None:
    replace_file(tmp_path / ("m" * 255), NEW)
    assert os.listdir(tmp_path) == ["m" * 255]
