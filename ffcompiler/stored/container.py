"""The file around an artifact: a canonical zip, and replacing a file whole or not at all.

Canonical: members stored, in a given order, with fixed dates and no extras, so that the bytes of a container follow
from the names and contents of its members. The reader takes the members out, writes them again and compares: what
ordinary zip readers forgive (junk before and after, duplicate names, two directories that disagree) is refused.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence
from typing import NoReturn

from ..errors import ArtifactError

MAX_BYTES = 2**32 - 2  # a larger file needs ZIP64
MAX_MEMBERS = 16
MAX_NAME = 64

_LOCAL = struct.Struct("<4s5H3L2H")  # APPNOTE.TXT 4.3.7
_CENTRAL = struct.Struct("<4s6H3L5H2L")  # 4.3.12
_END = struct.Struct("<4s4H2LH")  # 4.3.16
_VERSION, _FLAGS, _STORED, _TIME, _DATE = 20, 0, 0, 0, 0x21  # 1980-01-01 00:00
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


def write(members: Sequence[tuple[str, bytes]]) -> bytes:
    """The container of ``(name, content)`` pairs.

    Raises:
        ArtifactError: when the contents are too large for a container.
    """
    names = [name for name, _ in members]
    assert len(set(names)) == len(names) <= MAX_MEMBERS, names
    assert all(_NAME.fullmatch(name) and len(name) <= MAX_NAME for name in names), names
    overhead = sum(_LOCAL.size + _CENTRAL.size + 2 * len(name) for name in names) + _END.size
    if (size := overhead + sum(len(content) for _, content in members)) > MAX_BYTES:
        raise ArtifactError(f"the artifact has {size} bytes; a container holds at most {MAX_BYTES}: save fewer weights")
    return _serialise(members)


def _serialise(members: Sequence[tuple[str, bytes]]) -> bytes:
    parts: list[bytes] = []
    directory: list[bytes] = []
    offset = 0
    for name, content in members:
        shape = (_FLAGS, _STORED, _TIME, _DATE, zlib.crc32(content), len(content), len(content), len(name), 0)
        parts += [_LOCAL.pack(b"PK\3\4", _VERSION, *shape), name.encode("ascii"), content]
        directory += [_CENTRAL.pack(b"PK\1\2", _VERSION, _VERSION, *shape, 0, 0, 0, 0, offset), name.encode("ascii")]
        offset += _LOCAL.size + len(name) + len(content)
    size = sum(map(len, directory))
    end = _END.pack(b"PK\5\6", 0, 0, len(members), len(members), size, offset, 0)
    return b"".join([*parts, *directory, end])


def read(data: bytes, names: Sequence[str]) -> dict[str, bytes]:
    """The contents of a container that has exactly the members ``names``, in that order.

    Raises:
        ArtifactError: for any other bytes.
    """
    if len(data) > MAX_BYTES:
        _refuse(f"the file has {len(data)} bytes, at most {MAX_BYTES} can be read")
    if not data.startswith(b"PK\3\4"):
        _refuse("the file is empty" if not data else f"the file begins with {ascii(data[:8])[1:]}, not as an artifact")
    members: list[tuple[str, bytes]] = []
    offset = 0
    for name in names:
        content, offset = _member(data, offset, name)
        members.append((name, content))
    if (end := data[offset : offset + 4]) != b"PK\1\2":
        extra = _name_at(data, offset) if end == b"PK\3\4" else "bytes that belong to none"
        _refuse(f"after its {len(names)} members the file has {extra}")
    if _serialise(members) != data:
        _refuse("the file differs from how ffcompiler writes these members (damaged, rewritten or added to)")
    return dict(members)


def _member(data: bytes, offset: int, name: str) -> tuple[bytes, int]:
    """The content of the member at ``offset`` and the offset after it."""
    if len(data) < offset + _LOCAL.size:
        _refuse(f"the file ends before its member {name}")
    signature, *_, crc, size, _, name_size, extra_size = _LOCAL.unpack_from(data, offset)
    if signature != b"PK\3\4" or data[offset + _LOCAL.size :][:name_size] != name.encode("ascii") or extra_size:
        _refuse(f"the file has {_name_at(data, offset)} where the member {name} belongs")
    start = offset + _LOCAL.size + name_size
    content = data[start : start + size]
    if len(content) != size:
        _refuse(f"the file ends inside its member {name}")
    if zlib.crc32(content) != crc:
        _refuse(f"its member {name} is damaged (CRC-32)")
    return content, start + size


def _name_at(data: bytes, offset: int) -> str:
    if data[offset : offset + 4] != b"PK\3\4" or len(data) < offset + _LOCAL.size:
        return "no member"
    size = min(_LOCAL.unpack_from(data, offset)[-2], MAX_NAME)
    name = data[offset + _LOCAL.size :][:size].decode("utf-8", "replace")
    return f"a member {name!a}"


def _refuse(fault: str) -> NoReturn:
    raise ArtifactError(f"not a whole artifact: {fault}; copy it again or compile again")
