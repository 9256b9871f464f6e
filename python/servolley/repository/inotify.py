"""The kernel's word that something below a folder has changed, so that nobody has to wait for the next look.
Which change it was is not asked: a look sees everything, and so a queue that overflowed loses nothing."""

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

# <sys/inotify.h>
_ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO = 0x4, 0x8, 0x40, 0x80
_CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x100, 0x200, 0x400, 0x800
_ONLYDIR = 0x01000000
# Not IN_MODIFY: a large file that is being copied would wake us for every write.
_FILES = _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_MASK = _FILES | _DELETE_SELF | _MOVE_SELF | _ONLYDIR

# Where another machine, or what is behind a mount, can change files, the kernel does not know of it.
_LOCAL = {
    *("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "reiserfs", "tmpfs"),
    *("xfs", "zfs"),
}
_OCTAL = re.compile(r"\\([0-7]{3})", re.ASCII)  # how mountinfo writes blanks
_READ_BYTES = 1 << 16

MOST_FOLDERS = 8192  # beyond them only the next look sees what happens


Roots = Callable[[], Iterable[tuple[Path, int]]]
"""Folders, each with how deep below it folders count, too."""


class FolderWatch:
    """Watches ``roots`` and what is below them. ``fileno()`` is readable when something has changed.

    Everything else is for one thread at a time, and may touch the disk.
    """

    def __init__(self, descriptor: int, libc: "ctypes.CDLL", roots: Roots) -> None:
        self._descriptor = descriptor
        self._libc = libc
        self._roots = roots
        self._watched: set[int] = set()
        self._local: set[Path] = set()
        self.rooted = False

    @classmethod
    def open(cls, roots: Roots) -> "FolderWatch | None":
        """None where it would not work: other systems and file systems, no more watches."""
        if not any(is_local(folder) for folder, _ in roots()):
            return None
        import ctypes  # after the start, not at it

        try:
            libc = ctypes.CDLL(None)
            descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, AttributeError):
            return None
        return None if descriptor < 0 else cls(descriptor, libc, roots)

    def fileno(self) -> int:
        return self._descriptor

    def refresh(self) -> None:
        """Forgets what was said so far, and watches the folders that are there now: before a look, so that
        what changes after it is said again. ``rooted``: whether every root is watched; if not, try again."""
        self.rooted = False
        self._drain()
        watched: set[int] = set()
        rooted = True
        for root, depth in self._roots():
            if root not in self._local:
                if not is_local(root):
                    rooted = False
                    continue
                self._local.add(root)
            rooted = self._watch(os.fspath(root), depth, watched) and rooted
        for gone in self._watched - watched:
            self._libc.inotify_rm_watch(self._descriptor, gone)
        self._watched = watched
        self.rooted = rooted

    def close(self) -> None:
        os.close(self._descriptor)

    def _watch(self, folder: str, depth: int, watched: set[int]) -> bool:
        """Whether ``folder`` is watched; of what is below it, what can be."""
        if len(watched) >= MOST_FOLDERS:
            return True
        watch = self._libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _MASK)
        if watch < 0:
            # What has vanished meanwhile was said by the folder above it; for others there are the looks.
            return False
        if watch in watched:
            return True  # a second way to the same folder
        watched.add(watch)
        if depth > 0:
            for path in _folders_in(folder):
                self._watch(path, depth - 1, watched)
        return True

    def _drain(self) -> None:
        try:
            while os.read(self._descriptor, _READ_BYTES):
                pass
        except BlockingIOError:
            return


def _folders_in(folder: str) -> list[str]:
    """Those that can be looked at."""
    below = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    if not entry.name.startswith(".") and entry.is_dir():
                        below.append(entry.path)
    except OSError:
        return below
    return below


def is_local(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """By the file system of the mount that ``folder`` lies in."""
    try:
        resolved = folder.resolve(strict=True)
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except (OSError, RuntimeError):  # the second from links in a circle, before Python 3.13
        return False
    kind, longest = "", -1
    for line in lines:
        left, _, right = line.partition(" - ")
        fields, rest = left.split(" "), right.split(" ")
        if len(fields) < 5:
            continue
        point = Path(_OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4]))
        if len(point.parts) >= longest and resolved.is_relative_to(point):
            kind, longest = rest[0], len(point.parts)
    return kind in _LOCAL
