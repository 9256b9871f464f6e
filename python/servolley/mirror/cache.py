"""The copy on this machine. A version's folder is there whole or not at all: it is filled under a hidden
name, written through to the disk, and renamed. What it was copied from is noted in it."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from servolley.mirror.listing import Files, RemoteFile, digest_of
from servolley.mirror.names import COMPLETE_MARKER, MirrorError
from servolley.repository.names import parse_version, valid_model_name

_STATE = ".mirror.json"
_OWNER = ".mirror-of"
_LOCK = ".lock"
_STAGING = ".staging"
_TRASH = ".trash"
_READ_BYTES = 1 << 20
_LOCK_INTERVAL_S = 0.2

Progress = Callable[[int], None]


class _File(msgspec.Struct, frozen=True):
    size: Annotated[int, msgspec.Meta(ge=0)]
    sha256: str
    fingerprint: str


class State(msgspec.Struct, frozen=True):
    """What lies in one folder: files by their relative paths, and what tells this content from another."""

    digest: str
    files: dict[str, _File]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files.values())


@dataclass(frozen=True, slots=True)
class Written:
    """One file as it came."""

    size: int
    sha256: str


class Cache:
    """One URL's own folder. ``locked`` keeps other servers' mirrors of the same away."""

    def __init__(self, root: Path, owner: str) -> None:
        """Raises MirrorError: it cannot be made, or is something else."""
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
            mark = root / _OWNER
            if not mark.exists():
                if any(root.iterdir()):
                    raise MirrorError(f"{root} is no mirror's: choose another --cache-dir")
                mark.write_text(owner)
        except OSError as error:
            raise MirrorError(f"{root}: {error.strerror}") from error

    @contextlib.contextmanager
    def locked(self, waiting: Callable[[], None]) -> Iterator[None]:
        with (self.root / _LOCK).open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    waiting()
                    time.sleep(_LOCK_INTERVAL_S)
            yield

    # --- what is there ---

    def models(self) -> list[str]:
        return sorted(
            entry.name for entry in self.root.iterdir() if valid_model_name(entry.name) and entry.is_dir()
        )

    def holds(self, model: str) -> bool:
        return (self.root / model).exists()

    def versions(self, model: str) -> dict[int, State]:
        """Versions that were copied whole."""
        found = {}
        with contextlib.suppress(FileNotFoundError):
            for entry in (self.root / model).iterdir():
                version = parse_version(entry.name)
                state = None if version is None else _read_state(entry)
                if version is not None and state is not None:
                    found[version] = state
        return found

    def head(self, model: str) -> State | None:
        """Of what is in no version."""
        return _read_state(self.root / model)

    def verify(self, progress: Progress) -> list[str]:
        """Takes away what is not as it was written; returns its names."""
        wrong = []
        for model in self.models():
            for version, state in self.versions(model).items():
                if not _is_intact(self.root / model / str(version), state, progress):
                    self.remove(model, version)
                    wrong.append(f"{model}/{version}")
            head = self.head(model)
            if head is not None and not _is_intact(self.root / model, head, progress):
                (self.root / model / _STATE).unlink()  # it is copied again
                wrong.append(model)
        return wrong

    # --- changing it ---

    def staging(self, model: str, what: str, digest: str) -> Path:
        """A hidden folder for one content of one version; files that came earlier are still in it."""
        folder = self.root / _STAGING / model / f"{what}-{digest}"
        for other in folder.parent.glob(f"{what}-*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def forget_staging(self, unfinished: Collection[str]) -> None:
        """What is left over there, except of these models; and the trash."""
        self._empty_trash()
        for folder in (self.root / _STAGING).glob("*"):
            if folder.name not in unfinished:
                shutil.rmtree(folder, ignore_errors=True)

    def publish_model(self, model: str, folder: Path) -> None:
        """A model that was not there, with all that is to be seen of it."""
        _sync_folders(folder)
        folder.rename(self.root / model)
        _sync(self.root)

    def publish_version(self, model: str, version: int, folder: Path) -> None:
        place = self.root / model / str(version)
        _sync_folders(folder)
        if place.exists():
            self._trash(place)  # two looks of the server would have to fall between these lines
        folder.rename(place)
        _sync(place.parent)
        self._empty_trash()

    def publish_head(self, model: str, folder: Path, files: Files, state: State) -> None:
        """``folder``: those of ``files`` that have changed."""
        place = self.root / model
        before = self.head(model)
        # What is gone goes first: a folder may have got the name of a file, or a file that of a folder.
        for path in before.files if before is not None else ():
            if path not in files:
                _unlink(place, path)
        for path in files:
            staged = folder / path
            if staged.exists():
                if (place / path).is_dir():
                    self._trash(place / path)  # a version that is a file by now
                (place / path).parent.mkdir(parents=True, exist_ok=True)
                staged.rename(place / path)
        write_state(place, state)
        _sync(place)
        self._empty_trash()

    def remove(self, model: str, version: int | None = None) -> None:
        place = self.root / model if version is None else self.root / model / str(version)
        if place.is_dir():  # a file by the name of a version is none
            self._trash(place)
            self._empty_trash()

    def _trash(self, place: Path) -> None:
        trash = self.root / _TRASH
        trash.mkdir(exist_ok=True)
        place.rename(trash / f"{time.time_ns()}-{place.name}")

    def _empty_trash(self) -> None:
        shutil.rmtree(self.root / _TRASH, ignore_errors=True)


# --- one folder ---


def state_of(files: Files, written: dict[str, Written]) -> State:
    return State(
        digest_of(files),
        {path: _File(was.size, was.sha256, files[path].fingerprint) for path, was in written.items()},
    )


def write_state(folder: Path, state: State, *, complete: bool = False) -> None:
    """``complete``: the server need not look twice."""
    hidden = folder / f"{_STATE}.new"
    with hidden.open("wb") as file:
        file.write(msgspec.json.encode(state))
        file.flush()
        os.fsync(file.fileno())
    hidden.rename(folder / _STATE)
    if complete:
        (folder / COMPLETE_MARKER).touch()


def already_written(folder: Path, path: str, file: RemoteFile) -> Written | None:
    """A file that came in an earlier attempt at the same content."""
    note = _note(folder / path)
    try:
        was = msgspec.json.decode(note.read_bytes(), type=_File)
    except (OSError, msgspec.DecodeError):
        return None
    if was.fingerprint != file.fingerprint or not _is_as(folder / path, was, lambda _: None):
        return None
    return Written(was.size, was.sha256)


def note_written(folder: Path, path: str, file: RemoteFile, written: Written) -> None:
    _note(folder / path).write_bytes(
        msgspec.json.encode(_File(written.size, written.sha256, file.fingerprint))
    )


def forget_notes(folder: Path, files: Files) -> None:
    for path in files:
        _note(folder / path).unlink(missing_ok=True)


def _unlink(place: Path, path: str) -> None:
    """A file below ``place``, and the folders that are empty then."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if (place / path).is_dir():
            return  # a version has its name by now
        (place / path).unlink()
    for folder in (place / path).parents:
        if folder == place:
            break
        try:
            folder.rmdir()
        except OSError:
            break  # not empty, or gone already


def _note(path: Path) -> Path:
    return path.with_name(f".{path.name}.note")


def _read_state(folder: Path) -> State | None:
    try:
        return msgspec.json.decode((folder / _STATE).read_bytes(), type=State)
    except (OSError, msgspec.DecodeError):
        return None


def _is_intact(folder: Path, state: State, progress: Progress) -> bool:
    return all(_is_as(folder / path, file, progress) for path, file in state.files.items())


def _is_as(path: Path, file: _File, progress: Progress) -> bool:
    try:
        if path.stat().st_size != file.size:
            return False
        digest = hashlib.sha256()
        with path.open("rb") as opened:
            while chunk := opened.read(_READ_BYTES):
                digest.update(chunk)
                progress(len(chunk))
    except OSError:
        return False
    return digest.hexdigest() == file.sha256


def _sync_folders(folder: Path) -> None:
    for path, _, _ in os.walk(folder):
        _sync(Path(path))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
