"""Which URLs and which remote names are taken. What comes from elsewhere never chooses a path here."""

import hashlib
import re
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

# Scheme -> the optional dependencies that open it.
EXTRAS = {
    "s3": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "hf": "hf",
    "https": "remote",
    "http": "remote",
    "file": "remote",
    "memory": "remote",
}
MANIFEST = "SHA256SUMS"
CONFIG_FILES = frozenset({"model.toml", "config.pbtxt"})
COMPLETE_MARKER = ".complete"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://", re.ASCII)
_FORBIDDEN = re.compile(r"[/\\\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)
# Greedy: a password may have an "@" of its own.
_USER_INFORMATION = re.compile(r"://[^/?#\s]*@")
_LONGEST_NAME_BYTES = 200  # a file system's limit less what we put behind it


class MirrorError(Exception):
    """Something of the remote repository cannot be had; the text is for the user."""


def scheme_of(path: str) -> str | None:
    """The scheme of a URL, None for a path of this machine. Raises MirrorError for one that nobody opens."""
    if "://" not in path:
        return None
    match = _SCHEME.match(path)
    scheme = "" if match is None else match[1].lower()
    if scheme not in EXTRAS or "::" in path:
        raise MirrorError(f"{shown(path)}: not one of {', '.join(f'{known}://' for known in EXTRAS)}")
    return scheme


def shown(url: str) -> str:
    """A URL without who calls and what signs it."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def without_credentials(text: str) -> str:
    """A message of somebody else's, without the user and password of any URL in it."""
    return _USER_INFORMATION.sub("://", text)


def said(error: BaseException) -> str:
    """What an exception of somebody else's says, for the log."""
    return without_credentials(f"{type(error).__name__}: {error}")


def valid_segment(name: str) -> bool:
    """Whether a remote name may be a file's or folder's here; hidden ones may not."""
    return (
        name != ""
        and not name.startswith(".")
        and _FORBIDDEN.search(name) is None
        and len(name.encode()) <= _LONGEST_NAME_BYTES
    )


def cache_folder(cache_dir: Path, url: str) -> Path:
    """One URL's own folder below the cache directory."""
    parts = urlsplit(url)
    name = _UNSAFE.sub("-", f"{parts.hostname or ''}{parts.path}").strip("-.")[-60:]
    return cache_dir / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
