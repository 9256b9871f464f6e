"""The file in which a server leaves what was decided about traffic to the next one. Blocking."""

import contextlib
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from servolley.config.settings import Repository
from servolley.config.traffic import Version, Weight

_MOST_BYTES = 64 << 20
_MOST_MODELS = 10_000  # those that came first are forgotten
_USER = re.compile("://[^/@]*@")  # and password


class KeptOutcome(msgspec.Struct, frozen=True):
    """What became of a canary. weights: a fingerprint; others begin anew. reason, why: of the verdict."""

    state: Literal["promoted", "rolled_back"]
    weights: str
    reason: str | None = None
    why: str = ""


class KeptTraffic(msgspec.Struct, frozen=True):
    """Of one model. config: a digest of the configuration that the rest is about; see TrafficRecord."""

    config: str
    outcomes: dict[Version, KeptOutcome] = {}
    incumbent: Version | None = None
    by_hand: Annotated[dict[Version, Weight], Meta(min_length=1)] | None = None


class _File(msgspec.Struct, frozen=True):
    """repository: for people."""

    format: Literal[1]
    repository: str
    models: dict[str, KeptTraffic]


class StateError(Exception):
    """The file cannot be read or written; the text says why."""


class StateFile:
    """Of one repository."""

    def __init__(self, path: Path | None, repository: str) -> None:
        """``path``: the file, which need not exist; None: there is no place for one."""
        self.path = path
        self._repository = repository

    @classmethod
    def of(cls, settings: Repository) -> "StateFile":
        """The one of what is served: a file in [repository] state_dir, or in the user's state directory."""
        served = settings.model_config_file or settings.path or ""
        served = str(Path(served).absolute()) if "://" not in served else _USER.sub("://", served)
        folder = _folder(settings.state_dir)
        if folder is None:
            return cls(None, served)
        name = served.rstrip("/").rpartition("/")[2][:64] or "root"
        return cls(folder / f"{name}-{hashlib.sha256(served.encode()).hexdigest()[:16]}.json", served)

    def read(self) -> dict[str, KeptTraffic]:
        """By model; nothing if there is no file. Raises StateError."""
        if self.path is None:
            return {}
        try:
            with self.path.open("rb") as file:
                text = file.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StateError(error.strerror or str(error)) from error
        if len(text) > _MOST_BYTES:
            raise StateError("it is too large")
        try:
            return msgspec.json.decode(text, type=_File).models
        except (msgspec.DecodeError, RecursionError) as error:  # a ValidationError is one, too
            raise StateError(str(error)) from error

    def write(self, noted: Mapping[str, KeptTraffic | None]) -> None:
        """What another server of the same repository wrote about other models stays. None: nothing is to be
        kept. Raises StateError."""
        if self.path is None:
            raise StateError("no home directory: set repository.state_dir")
        try:
            models: dict[str, KeptTraffic | None] = {**self.read()}
        except StateError:
            models = {}
        models |= noted
        kept = {name: traffic for name, traffic in models.items() if traffic is not None}
        kept = dict([*kept.items()][-_MOST_MODELS:])
        text = msgspec.json.format(msgspec.json.encode(_File(1, self._repository, kept)))
        try:
            _replace(self.path, text)
        except OSError as error:
            raise StateError(error.strerror or str(error)) from error


def _folder(chosen: str | None) -> Path | None:
    if chosen is not None:
        return Path(chosen)
    base = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".local" / "state") / "servolley"
    except RuntimeError:
        return None


def _replace(path: Path, text: bytes) -> None:
    """Whole or not at all, whatever ends in between. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
