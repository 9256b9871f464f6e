"""Byte sizes as people write them."""

import re

_UNITS = {
    "": 1,
    "b": 1,
    "k": 10**3,
    "kb": 10**3,
    "m": 10**6,
    "mb": 10**6,
    "g": 10**9,
    "gb": 10**9,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
}
_SIZE = re.compile(r"([0-9]+)(\.[0-9]+)?\s*([A-Za-z]*)", re.ASCII)
_LARGEST = 1 << 62


class ByteSize(int):
    """A number of bytes; written as an integer or as text such as "64MiB", "1.5 GB" or "500000"."""

    __slots__ = ()


def parse_size(value: object) -> ByteSize:
    """Bytes of ``value``. Raises ValueError with a text for the user."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        factor = _UNITS.get(match[3].lower()) if match else None
        if match is None or factor is None:
            raise ValueError(f"not a size in bytes: {value!r} (write 1048576, 64MiB or 1.5GB)")
        size = int(match[1]) * factor
        if match[2]:
            size += round(float(match[2]) * factor)
    else:
        raise ValueError(f"not a size in bytes: {value!r}")
    if not 0 < size <= _LARGEST:
        raise ValueError(f"size out of range: {value!r}")
    return ByteSize(size)
