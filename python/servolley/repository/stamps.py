"""What tells one content of a file or folder from another without reading it: size, time of the last change,
and which file it is."""

import os
from pathlib import Path

# An opaque value: equal stamps stand for the same content.
Stamp = object

_MOST_FILES = 10_000  # of one folder; what lies beyond is not looked at


def stamp_of_file(path: Path) -> Stamp | None:
    """None if there is no such file, or it cannot be looked at."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return (status.st_size, status.st_mtime_ns, status.st_ino)


def stamp_of_folder(folder: Path) -> Stamp:
    """Of every file below it, hidden ones left out. What vanishes meanwhile is not in it."""
    found: list[tuple[str, int, int, int]] = []
    pending = [str(folder)]
    while pending and len(found) < _MOST_FILES:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        pending.append(entry.path)
                        continue
                    status = entry.stat()
                    found.append((entry.path, status.st_size, status.st_mtime_ns, status.st_ino))
        except OSError:
            continue
    return tuple(sorted(found))
