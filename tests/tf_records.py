"""TensorFlow's record files as a writer of its own makes them, so that ours is not read by its own rules."""

from __future__ import annotations

from collections.abc import Iterable


def crc32c(data: bytes) -> int:
    """Bit by bit, by the definition."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return ((rotated + 0xA282EAD8) % (1 << 32)).to_bytes(4, "little")


def record(content: bytes) -> bytes:
    length = len(content).to_bytes(8, "little")
    return length + masked(length) + content + masked(content)


def record_file(contents: Iterable[bytes]) -> bytes:
    return b"".join(map(record, contents))
