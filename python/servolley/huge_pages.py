"""Models' weights on huge pages: they load faster and, above all, go back to the system in a tenth of the
time. Unmapping 100 MB of ordinary pages is one system call of many milliseconds, in which a kernel that does
not preempt itself lets nobody else run on that processor.

The C library asks for huge pages only if it is told to before it starts, by an environment variable. So the
process replaces itself once, where that changes anything."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

_VARIABLE = "GLIBC_TUNABLES"
_TUNABLE = "glibc.malloc.hugetlb"
_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_FIRST_GLIBC = (2, 35)


def use_huge_pages() -> None:
    """Returns if there is nothing to gain; else the command line begins anew, in the same process."""
    environment = environment_with_huge_pages(os.environ, _libc(), _setting())
    if environment is None or not sys.executable or not sys.orig_argv:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 - ourselves
    except OSError:
        return  # it works as well without


def environment_with_huge_pages(
    environment: Mapping[str, str], libc: str, setting: str
) -> dict[str, str] | None:
    """None: they are there already, are forbidden, or whoever started us has decided.

    ``libc``: "glibc 2.36". ``setting``: the kernel's, "always [madvise] never".
    """
    tunables = environment.get(_VARIABLE, "")
    if "[madvise]" not in setting or _TUNABLE in tunables:
        return None
    name, _, version = libc.partition(" ")
    numbers = version.split(".")
    if name != "glibc" or not all(number.isdigit() for number in numbers):
        return None
    if tuple(map(int, numbers)) < _FIRST_GLIBC:
        return None
    wanted = f"{_TUNABLE}=1"
    return {**environment, _VARIABLE: f"{tunables}:{wanted}" if tunables else wanted}


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""  # another C library


def _setting() -> str:
    try:
        return _SETTING.read_text()
    except OSError:
        return ""
