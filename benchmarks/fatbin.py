"""A library's GPU code for some architectures only: the machine code for the others becomes zeros, which
pack to nothing. Nothing moves and every header stays, so that the driver finds the entries that it wants
where they were; it has no reason to read the others.

The layout is NVIDIA's and not documented: a container's header (magic, version, its own length, the length
of what follows), then entries, each with a header of its own (kind, version, its own length, the payload's
length) before its payload. What does not look like that is an error, not a guess.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

#: The section of a library that holds containers, one after the other, with zeros between them.
SECTION: Final = b".nv_fatbin"
_MAGIC: Final = 0xBA55ED50
_CONTAINER: Final = struct.Struct("<IHHQ")
_ENTRY: Final = struct.Struct("<HHIQ")
#: Of an entry's header: 75 for sm_75. Variants with a letter share their number.
_ARCH: Final = struct.Struct("<I")
_ARCH_AT: Final = 28
_ALIGNMENT: Final = 8


def section(library: bytes | bytearray, name: bytes = SECTION) -> tuple[int, int]:
    """(offset, length) of a section of a 64-bit little-endian ELF file. Raises ValueError without one."""
    if library[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", library, 40)
    width, count, names_index = struct.unpack_from("<HHH", library, 58)
    headers = [struct.unpack_from("<IIQQQQ", library, table + index * width) for index in range(count)]
    names = headers[names_index][4]
    for at, _, _, _, offset, length in headers:
        if library[names + at : library.index(b"\0", names + at)] == name:
            return offset, length
    raise ValueError(f"no section {name.decode()}")


def keep(code: bytearray, begin: int, length: int, archs: Collection[int]) -> Counter[int]:
    """Zeroes the payloads for other architectures; returns how many bytes each architecture had. Raises
    ValueError for what is no sequence of containers."""
    had: Counter[int] = Counter()
    at, end = begin, begin + length
    while at < end:
        if not any(code[at : at + _ALIGNMENT]):
            at += _ALIGNMENT
            continue
        magic, _, head, total = _CONTAINER.unpack_from(code, at)
        if magic != _MAGIC or head < _CONTAINER.size or at + head + total > end:
            raise ValueError(f"no container of GPU code at {at:#x}")
        at += head
        after = at + total
        while at < after:
            _, _, head, size = _ENTRY.unpack_from(code, at)
            if head < _ARCH_AT + _ARCH.size or at + head + size > after:
                raise ValueError(f"no entry of GPU code at {at:#x}")
            (arch,) = _ARCH.unpack_from(code, at + _ARCH_AT)
            had[arch] += size
            if arch not in archs:
                code[at + head : at + head + size] = bytes(size)
            at += head + size
    if not had.keys() >= set(archs):
        raise ValueError(f"GPU code for {sorted(had)} only")
    return had


def keep_in_library(library: bytearray, archs: Collection[int]) -> Counter[int]:
    """The same for the section of a library. Raises ValueError."""
    return keep(library, *section(library), archs)
