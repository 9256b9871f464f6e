"""A repository in the folders of an fsspec file system: object stores, hubs, web servers that list
folders."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from servolley.mirror.listing import DEEPEST, MOST_FILES, Files, Reader, RemoteFile, RemoteModel
from servolley.mirror.manifest import LARGEST_MANIFEST_BYTES, ManifestListing
from servolley.mirror.names import (
    COMPLETE_MARKER,
    CONFIG_FILES,
    EXTRAS,
    MANIFEST,
    MirrorError,
    said,
    scheme_of,
    shown,
    valid_segment,
)
from servolley.repository.names import parse_version, valid_model_name

_BLOCK_BYTES = 8 << 20
_MODEL_FILE_SUFFIX = ".onnx"

# What file systems call that which changes with a content. Each group counts only where there is nothing of
# the ones before: it changes without the content, too.
_MARKS = (
    (
        *("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "Digest", "crc32c", "generation"),
        *("VersionId", "version_id", "blob_id", "oid"),
    ),
    ("mtime", "ino", "LastModified", "Last-Modified", "last_modified", "updated", "modified"),
    ("created",),
)


class RemoteFolder:
    """The root of a repository, of one model, or one model file, at ``url``. Blocking."""

    def __init__(
        self,
        url: str,
        name: str | None,
        options: dict[str, Any],
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """``name``: the model's, where there is one only; ``options``: the file system's; ``progress``: told
        that a look goes on. Raises MirrorError."""
        scheme = scheme_of(url)
        assert scheme is not None
        self._url = url
        self._web = scheme in {"http", "https"}
        if self._web and urlsplit(url).query:
            raise MirrorError("what has a query cannot be listed; keys go into remote.options, as headers")
        self._name = name
        self._progress = progress
        self._is_single: bool | None = None
        self._files = _file_system(scheme, options)
        root = url if self._web else self._files._strip_protocol(url)
        self._root = str(root).rstrip("/")

    def look(self) -> "FolderListing | ManifestListing":
        """The beginning of a look. Raises whatever the file system raises."""
        self._files.invalidate_cache()
        parent, _, last = self._root.rpartition("/")
        if last == MANIFEST:
            return ManifestListing(self._manifest(), parent, self.open, escape=self._web)
        return FolderListing(self, self._root, self._name)

    def _manifest(self) -> str:
        text = bytearray()
        with self.open(self._root) as file:
            while chunk := file.read(_BLOCK_BYTES):  # which may be less than what is there
                text += chunk
                if len(text) > LARGEST_MANIFEST_BYTES:
                    raise MirrorError(f"{MANIFEST}: larger than {LARGEST_MANIFEST_BYTES} bytes")
        return text.decode("utf-8", "replace")

    def open(self, name: str) -> AbstractContextManager[Reader]:
        # Web servers need not know ranges: a file of theirs is read as it comes.
        opened: AbstractContextManager[Reader] = self._files.open(
            name, "rb", block_size=0 if self._web else _BLOCK_BYTES
        )
        return opened

    def is_single(self, now: bool) -> None:
        """What was found first is what it stays, as on disk. Raises MirrorError."""
        if self._is_single is None:
            self._is_single = now
        elif self._is_single != now:
            raise MirrorError("it looks like one model now, and did not before, or the other way round")

    def info(self, name: str) -> "Entry":
        return self._entry(name.rpartition("/")[2], self._files.info(name))

    def entries(self, folder: str) -> "Iterator[Entry]":
        """What lies directly in it, whatever it is called."""
        self._progress(0)
        prefix = folder + "/"
        for info in self._files.ls(prefix if self._web else folder, detail=True):
            full = str(info["name"])
            if not full.startswith(prefix) or "?" in full or "#" in full:
                continue  # the folder itself, or a link to somewhere else
            rest = full[len(prefix) :].rstrip("/")
            if rest:
                yield self._entry(unquote(rest, errors="surrogateescape") if self._web else rest, info)

    def _entry(self, name: str, info: dict[str, Any]) -> "Entry":
        if info.get("islink"):
            info = self._files.info(info["name"])
        return Entry(name, str(info["name"]).rstrip("/"), info.get("type") == "directory", info)

    def file(self, entry: "Entry") -> RemoteFile:
        info = entry.info
        if self._web:
            self._progress(0)
            info = self._files.info(entry.full)  # a list of links says nothing of files
        size = info.get("size")
        lfs = info.get("lfs")
        sha256 = lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
        marks: dict[str, str] = {}
        for keys in _MARKS:
            marks = marks or {key: str(info[key]) for key in keys if info.get(key) is not None}
        text = repr((size, sha256, sorted(marks.items())))
        return RemoteFile(
            entry.full,
            size if isinstance(size, int) else None,
            hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32],
            sha256 if isinstance(sha256, str) else None,
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """name: its last segment, decoded. full: what the file system calls it."""

    name: str
    full: str
    is_folder: bool
    info: dict[str, Any]

    @property
    def is_hidden(self) -> bool:
        return self.name.startswith(".") and "/" not in self.name


class FolderListing:
    """One look."""

    atomic = False

    def __init__(self, folder: RemoteFolder, root: str, name: str | None) -> None:
        self._folder = folder
        self._root = root
        self._name = name
        self._seen = 0
        self._top: list[Entry] | None = None

    def models(self) -> list[str]:
        is_single = self._single() is not None
        names = [self._single_name()] if is_single else self._model_names()
        if names:
            self._folder.is_single(is_single)
        return names

    def _model_names(self) -> list[str]:
        return sorted(
            {
                entry.name
                for entry in self._entries_of_root()
                if entry.is_folder and valid_model_name(entry.name)
            }
        )

    def model(self, name: str) -> RemoteModel:
        file = self._single()
        if file is not None and not file.is_folder:
            return RemoteModel(versions={1: file.name})
        folder = self._root if file is not None else f"{self._root}/{self._path_of(name)}"
        head: dict[str, RemoteFile] = {}
        versions: dict[int, str] = {}
        others: list[Entry] = []
        entries = self._counted(folder)
        if not entries:
            raise FileNotFoundError(name)
        # Sorted, so that of two names for one version ("7", "007") the later wins, as on disk.
        for entry in sorted(entries, key=lambda entry: entry.name):
            version = parse_version(entry.name) if entry.is_folder else None
            if version is not None:
                versions[version] = entry.name
            elif entry.is_folder and not entry.is_hidden:
                others.append(entry)
            elif not entry.is_hidden:
                head[_checked(entry)] = self._folder.file(entry)
        if versions or not CONFIG_FILES.isdisjoint(head):  # otherwise it is no model's
            for entry in others:
                head |= {f"{entry.name}/{path}": file for path, file in self._below(entry, DEEPEST).items()}
        return RemoteModel(head, versions)

    def version(self, model: str, folder: str) -> tuple[Files, bool]:
        single = self._single()
        if single is not None and not single.is_folder:
            return self._model_file(single), False
        base = self._root if single is not None else f"{self._root}/{self._path_of(model)}"
        full = f"{base}/{folder}"
        files: dict[str, RemoteFile] = {}
        complete = False
        for entry in self._counted(full):
            complete = complete or entry.name == COMPLETE_MARKER
            if entry.is_hidden:
                continue
            if entry.is_folder:
                files |= {f"{entry.name}/{path}": file for path, file in self._below(entry, DEEPEST).items()}
            else:
                files[_checked(entry)] = self._folder.file(entry)
        if not files:
            raise FileNotFoundError(folder)
        return files, complete

    def open(self, file: RemoteFile) -> AbstractContextManager[Reader]:
        return self._folder.open(file.name)

    # --- one model only ---

    def _single(self) -> Entry | None:
        """The root, if it is one model's directory or a model file."""
        if self._root.endswith(_MODEL_FILE_SUFFIX):
            return self._folder.info(self._root)
        entries = self._entries_of_root()
        is_model = any(entry.name in CONFIG_FILES for entry in entries if not entry.is_folder) or (
            any(parse_version(entry.name) is not None for entry in entries if entry.is_folder)
            and not any(
                valid_model_name(e.name) and not parse_version(e.name) for e in entries if e.is_folder
            )
        )
        return Entry("", self._root, True, {}) if is_model else None

    def _single_name(self) -> str:
        name = self._name or unquote(self._root.rpartition("/")[2]).removesuffix(_MODEL_FILE_SUFFIX)
        if not valid_model_name(name):
            raise MirrorError("give the model a name (--name)")
        return name

    def _model_file(self, single: Entry) -> Files:
        """The file under the name that is looked for, and what is called as it is: its external data."""
        parent, _, name = self._root.rpartition("/")
        files = {"model.onnx": self._folder.file(single)}
        for entry in self._counted(parent):
            if entry.name.startswith(name) and entry.name != name and not entry.is_folder:
                files[_checked(entry)] = self._folder.file(entry)
        return files

    # --- folders ---

    def _entries_of_root(self) -> list[Entry]:
        if self._top is None:
            self._top = self._counted(self._root)
        return self._top

    def _path_of(self, model: str) -> str:
        for entry in self._entries_of_root():
            if entry.name == model and entry.is_folder:
                return entry.full.rpartition("/")[2]
        raise FileNotFoundError(model)

    def _below(self, folder: Entry, depth: int) -> Files:
        _checked(folder)
        if depth == 0:
            raise MirrorError(f"'{folder.name}' lies too deep")
        files: dict[str, RemoteFile] = {}
        for entry in self._counted(folder.full):
            if entry.is_hidden:
                continue
            if entry.is_folder:
                files |= {
                    f"{entry.name}/{path}": file for path, file in self._below(entry, depth - 1).items()
                }
            else:
                files[_checked(entry)] = self._folder.file(entry)
        return files

    def _counted(self, folder: str) -> list[Entry]:
        entries = []
        for entry in self._folder.entries(folder):
            self._seen += 1
            if self._seen > MOST_FILES:
                raise MirrorError(f"more than {MOST_FILES} files")
            entries.append(entry)
        return entries


def _checked(entry: Entry) -> str:
    """Raises MirrorError for a name that may not be a file's here."""
    if not valid_segment(entry.name):
        raise MirrorError(f"a remote name that is none here: {entry.name[:100]!r}")
    return entry.name


def _file_system(scheme: str, options: dict[str, Any]) -> Any:
    """Raises MirrorError where what opens it is not installed."""
    # gcsfs asks over gRPC first what kind of bucket it is, a minute long where that cannot be reached (an
    # endpoint of one's own, a proxy), and needs the answer to write, or for zonal buckets.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        import fsspec

        if scheme in {"http", "https"}:
            import aiohttp

            # Its own limit is five minutes for a whole file.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
            client = {"timeout": timeout, "trust_env": True} | options.get("client_kwargs", {})
            options = options | {"client_kwargs": client}
        return fsspec.filesystem(scheme, use_listings_cache=False, **options)
    except ImportError as error:
        what = f"pip install 'servolley[{EXTRAS[scheme]}]' ({error.name})"
        raise MirrorError(f"{scheme}:// needs what is not installed: {what}") from error
    except Exception as error:
        raise MirrorError(f"{scheme}://: {said(error)}") from error


def open_repository(
    url: str, name: str | None, options: dict[str, Any], progress: Callable[[int], None] = lambda _: None
) -> RemoteFolder:
    """Raises MirrorError, with the URL in its text."""
    try:
        return RemoteFolder(url, name, options, progress)
    except MirrorError as error:
        raise MirrorError(f"{shown(url)}: {error}") from error
