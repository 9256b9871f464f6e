"""What tells one content of a file or folder from another without reading it: size, time of the last change,
and which file it is."""

import os
from pathlib import Path

# An opaque value: equal stamps stand for the same content.
Stamp = object

_MOST_FILES = 10_000  # of one folder; what lies beyond is not looked at


class Unsettled:
    """A stamp that equals no other."""


def stamp_of_file(path: Path) -> Stamp | None:
    """None if there is no such file, or it cannot be looked at."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return (status.st_size, status.st_mtime_ns, status.st_ino)


def stamp_of_folder(folder: Path) -> Stamp:
    """Of every file below it, hidden ones left out. A link that leads nowhere counts as the link that it is,
    and a folder that cannot be listed as one thing. Unsettled if something vanishes during the look: what was
    seen may never have been there all at once."""
    found: list[tuple[str, int, int, int]] = []
    pending = [str(folder)]
    try:
        while pending and len(found) < _MOST_FILES:
            path = pending.pop()
            try:
                entries = _visible_entries(path)
            except OSError:
                found.append(_entry(path, os.lstat(path)))
                continue
            for entry in entries:
                try:
                    if entry.is_dir():
                        pending.append(entry.path)
                        continue
                    status = entry.stat()
                except OSError:
                    status = entry.stat(follow_symlinks=False)
                found.append(_entry(entry.path, status))
    except OSError:
        return Unsettled()
    return tuple(sorted(found))


def files_under(stamp: Stamp) -> list[str]:
    """Paths of what a folder's stamp is of."""
    return [path for path, *_ in stamp] if isinstance(stamp, tuple) else []


def _visible_entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _entry(path: str, status: os.stat_result) -> tuple[str, int, int, int]:
    return (path, status.st_size, status.st_mtime_ns, status.st_ino)
