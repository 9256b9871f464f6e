"""A repository whose files are listed in one: what `sha256sum` writes, e.g.
``(cd models && find . -type f ! -name SHA256SUMS -exec sha256sum {} + > SHA256SUMS)``."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from urllib.parse import quote

from servolley.mirror.listing import DEEPEST, MOST_FILES, Files, Reader, RemoteFile, RemoteModel
from servolley.mirror.names import MANIFEST, MirrorError, valid_segment
from servolley.repository.names import parse_version, valid_model_name

_LINE = re.compile(r"(?P<sum>[0-9a-fA-F]{64}) [ *](?:\./)?(?P<path>.+)", re.ASCII)
LARGEST_MANIFEST_BYTES = 64 << 20

Open = Callable[[str], AbstractContextManager[Reader]]


class ManifestListing:
    """``text``: the manifest; ``base``: what its paths are relative to; ``opener`` opens a remote name;
    ``escape``: whether names there are percent-encoded."""

    atomic = True

    def __init__(self, text: str, base: str, opener: Open, *, escape: bool) -> None:
        """Raises MirrorError for a manifest that is none, or that names what lies elsewhere."""
        self._open = opener
        self._models: dict[
            str, tuple[dict[str, RemoteFile], dict[int, tuple[str, dict[str, RemoteFile]]]]
        ] = {}
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        if len(lines) > MOST_FILES:
            raise MirrorError(f"{MANIFEST}: more than {MOST_FILES} files")
        for line in lines:
            match = _LINE.fullmatch(line)
            if match is None:
                raise MirrorError(f"{MANIFEST}: not a line of sha256sum's: {line[:100]!r}")
            self._add(match["path"], match["sum"].lower(), base, escape)

    def models(self) -> list[str]:
        return sorted(self._models)

    def model(self, name: str) -> RemoteModel:
        if name not in self._models:
            raise FileNotFoundError(name)
        head, versions = self._models[name]
        return RemoteModel(head, {version: folder for version, (folder, _) in versions.items()})

    def version(self, model: str, folder: str) -> tuple[Files, bool]:
        version = parse_version(folder)
        if version is None or version not in self._models[model][1]:
            raise FileNotFoundError(folder)
        return self._models[model][1][version][1], True

    def open(self, file: RemoteFile) -> AbstractContextManager[Reader]:
        return self._open(file.name)

    def _add(self, path: str, sha256: str, base: str, escape: bool) -> None:
        segments = path.split("/")
        if any(segment.startswith(".") and segment not in {".", ".."} for segment in segments):
            return  # hidden
        if len(segments) > DEEPEST + 2 or not all(map(valid_segment, segments)):
            raise MirrorError(f"{MANIFEST}: not a path below it: {path[:100]!r}")
        if len(segments) == 1:
            return  # a readme
        if not valid_model_name(segments[0]):
            raise MirrorError(f"{MANIFEST}: not a model name: {segments[0][:100]!r}")
        name = f"{base}/{'/'.join(map(quote, segments)) if escape else path}"
        file = RemoteFile(name, None, sha256, sha256)
        head, versions = self._models.setdefault(segments[0], ({}, {}))
        version = parse_version(segments[1]) if len(segments) > 2 else None
        if version is None:
            head["/".join(segments[1:])] = file
        else:
            _, files = versions.setdefault(version, (segments[1], {}))
            files["/".join(segments[2:])] = file
