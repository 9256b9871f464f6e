"""TensorFlow's record files: (length, checksum of the length, content, checksum of the content), again and
again, numbers little-endian."""

import struct
from collections.abc import Iterator
from typing import BinaryIO

from servolley._core import crc32c
from servolley.status import Code, StatusError

_HEAD = struct.Struct("<QI")
_TAIL = struct.Struct("<I")


def records(file: BinaryIO, size: int, largest: int) -> Iterator[bytes]:
    """The contents. ``size``: of the file; ``largest``: bytes that a record may have. Blocking.

    Raises StatusError: DATA_LOSS where it is no such file, or is damaged; RESOURCE_EXHAUSTED.
    """
    at = 0
    number = 0
    while head := file.read(_HEAD.size):
        if len(head) < _HEAD.size:
            raise _damaged(number, "ends within its head")
        length, checksum = _HEAD.unpack(head)
        if masked_crc32c(head[:8]) != checksum:
            raise _damaged(number, "has a wrong checksum of its length")
        at += _HEAD.size + length + _TAIL.size
        if at > size:
            raise _damaged(number, "is cut off")
        if length > largest:
            raise StatusError(Code.RESOURCE_EXHAUSTED, f"record {number} has more than {largest} bytes")
        content, tail = file.read(length), file.read(_TAIL.size)
        if len(content) < length or len(tail) < _TAIL.size:
            raise _damaged(number, "is cut off")
        if masked_crc32c(content) != _TAIL.unpack(tail)[0]:
            raise _damaged(number, "has a wrong checksum")
        yield content
        number += 1


def masked_crc32c(data: bytes) -> int:
    """As it is stored: a checksum of something that has checksums in it is no good one."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _damaged(number: int, what: str) -> StatusError:
    return StatusError(Code.DATA_LOSS, f"not a file of TensorFlow's records: record {number} {what}")
