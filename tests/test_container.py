"""A container is read only if it is, byte for byte, what ffcompiler writes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffcompiler.errors import ArtifactError
from ffcompiler.stored import container
from ffcompiler.stored.container import read, write

MEMBERS = [("manifest.json", b'{"format":1}'), ("plan.json", b"{}"), ("weights.safetensors", bytes(range(16)))]
NAMES = [name for name, _ in MEMBERS]
WHOLE = write(MEMBERS)


def refusal(data: bytes) -> str:
    """The message with which ``data`` is refused: one line of ASCII."""
    with pytest.raises(ArtifactError) as caught:
        read(data, NAMES)
    message = str(caught.value)
    assert message.isascii()
    assert message.isprintable()
    return message


def repacked(names: list[str], **options: int) -> bytes:
    """What Python's own zipfile makes of the members."""
    file = io.BytesIO()
    contents = dict(MEMBERS)
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), contents.get(name, b"?"))
    return file.getvalue()


def test_members_come_back() -> None:
    assert read(WHOLE, NAMES) == dict(MEMBERS)
    assert read(write([]) or b"", []) == {} if write([]).startswith(b"PK\3\4") else True


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=4))
def test_any_contents_come_back(contents: list[bytes]) -> None:
    members = [(f"member{i}", content) for i, content in enumerate(contents)]
    data = write(members)
    assert read(data, [name for name, _ in members]) == dict(members)
    assert write(members) == data


def test_other_tools_can_open_it() -> None:
    with zipfile.ZipFile(io.BytesIO(WHOLE)) as archive:
        assert archive.testzip() is None
        assert [(info.filename, archive.read(info)) for info in archive.infolist()] == MEMBERS


def test_every_one_byte_change_is_refused() -> None:
    small = write([("a", b"x"), ("b", b"")])
    for at in range(len(small)):
        for value in range(256):
            if value != small[at]:
                with pytest.raises(ArtifactError):
                    read(small[:at] + bytes([value]) + small[at + 1 :], ["a", "b"])


def test_every_truncation_is_refused() -> None:
    for size in range(len(WHOLE)):
        refusal(WHOLE[:size])


def test_every_lost_or_inserted_byte_is_refused() -> None:
    for at in range(len(WHOLE)):
        refusal(WHOLE[:at] + WHOLE[at + 1 :])
        refusal(WHOLE[:at] + b"\0" + WHOLE[at:])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "the file is empty"),
        (b"hello, \x1b[31m", "begins with 'hello, \\x1b'"),
        (b"#!/bin/sh\n" + WHOLE, "not as an artifact"),
        (b"%PDF-1.7" + WHOLE, "not as an artifact"),
        (WHOLE + b"\0", "differs from how ffcompiler writes"),
        (WHOLE + WHOLE, "differs from how ffcompiler writes"),
        (WHOLE[:-2] + b"\5\0hello", "differs from how ffcompiler writes"),
        (WHOLE.replace(b'"format"', b'"furmat"', 1), "its member manifest.json is damaged (CRC-32)"),
        (WHOLE[:50], "the file ends inside its member manifest.json"),
        (WHOLE[:60], "the file ends before its member plan.json"),
        (write(MEMBERS[:2]), "has no member where the member weights.safetensors belongs"),
        (write([*MEMBERS, ("extra", b"")]), "after its 3 members the file has a member 'extra'"),
        (write([MEMBERS[1], MEMBERS[0], MEMBERS[2]]), "a member 'plan.json' where the member manifest.json belongs"),
        (write([("Manifest.json".lower(), b"x"), ("plan.jsom", b"")]), "a member 'plan.jsom'"),
        (repacked(NAMES), "differs from how ffcompiler writes"),
        (repacked(NAMES, compression=zipfile.ZIP_DEFLATED), "differs"),
        (repacked(["../x"]), "a member '../x'"),
        (repacked(["\u202e\x1b[31m"]), "a member '\\u202e\\x1b[31m'"),
    ],
)
def test_other_files_are_refused_with_the_cause(data: bytes, why: str) -> None:
    assert why in refusal(data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("double", range(3))
def test_a_duplicate_member_is_refused(double: int) -> None:
    refusal(container._serialise([*MEMBERS[: double + 1], *MEMBERS[double:]]))
    refusal(repacked([*NAMES[: double + 1], *NAMES[double:]]))


@pytest.mark.parametrize("field", [4, 6, 8, 10, 12, 18, 22, 26, 28])
def test_a_directory_that_disagrees_with_the_members_is_refused(field: int) -> None:
    directory = WHOLE.index(b"PK\1\2")
    for start in (0, directory + 2):
        at = start + field
        refusal(WHOLE[:at] + bytes([WHOLE[at] ^ 1]) + WHOLE[at + 1 :])


def test_a_file_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_BYTES", len(WHOLE))
    assert read(write(MEMBERS), NAMES) == dict(MEMBERS)
    monkeypatch.setattr(container, "MAX_BYTES", len(WHOLE) - 1)
    assert "at most" in refusal(WHOLE)
    with pytest.raises(ArtifactError, match="a container holds at most"):
        write(MEMBERS)


@pytest.mark.parametrize(
    "build",
    [
        lambda: write([("a", b""), ("a", b"")]),
        lambda: write([("../a", b"")]),
        lambda: write([("A", b"")]),
        lambda: write([("a" * 65, b"")]),
        lambda: write([(f"a{i}", b"") for i in range(17)]),
    ],
)
def test_our_own_members_have_plain_names(build: Callable[[], bytes]) -> None:
    with pytest.raises(AssertionError):
        build()
