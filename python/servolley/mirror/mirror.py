"""One look at a remote repository, and making the copy here follow it. Blocking.

What the version policies want is copied, newest contents beside what is there; nothing here changes before
all of it has come. What the remote side does not show for a moment stays.
"""

import contextlib
import errno
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from servolley.config.model import ModelConfig, Versions
from servolley.config.strict import ConfigError, load_toml, read_config
from servolley.mirror.cache import Cache, State, forget_notes, state_of, write_state
from servolley.mirror.download import Budget, Downloads
from servolley.mirror.listing import Files, Listing, RemoteModel, digest_of, size_of
from servolley.mirror.names import CONFIG_FILES, MirrorError, said, shown
from servolley.repository.versions import aspired_versions

# Of what the policy does not want any more that stays, so that going back takes no time.
_KEPT_VERSIONS = 1

_HEAD = "head"
LARGEST_HEAD_BYTES = 256 << 20


class Remote(Protocol):
    def look(self) -> Listing: ...


@dataclass(slots=True)
class Outcome:
    """changed: something else is to be seen here. unsettled: another look is to find the same before it
    counts. problems: model -> what could not be done. repaired: what was not as it was copied."""

    changed: bool = False
    unsettled: bool = False
    problems: dict[str, str] = field(default_factory=dict)
    repaired: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Wanted:
    """One model after this look. versions: to be copied, each with its remote folder's name. gone: to be
    taken away. waiting: there will be versions, but they have to be found the same first. head_state: None if
    what is in no version stays."""

    name: str
    head: Files
    staged_head: Path
    head_state: State | None = None
    versions: dict[int, tuple[str, Files]] = field(default_factory=dict)
    gone: list[int] = field(default_factory=list)
    waiting: bool = False


class Mirror:
    """``triton_message`` makes an empty ModelConfig of Triton's; ``progress`` is told of bytes moved."""

    def __init__(
        self,
        remote: Remote,
        cache: Cache,
        *,
        url: str,
        max_bytes: int,
        downloads: int,
        triton_message: Callable[[], Any],
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._remote = remote
        self._cache = cache
        self._url = shown(url)
        self._max_bytes = max_bytes
        self._triton_message = triton_message
        self._progress = progress
        self._downloads = Downloads(downloads, progress)
        self._verified = False
        # What the look before found: (model, version or None for the model) -> digest, None = nothing.
        self._before: dict[tuple[str, int | None], str | None] = {}
        self._is_first = True
        self._trust = False

    def close(self) -> None:
        self._downloads.close()

    def take_came(self) -> int:
        """Bytes that have come from the remote side since this was asked last."""
        return self._downloads.take_came()

    def verify(self) -> list[str]:
        """Once: takes away what is not as it was written. Returns its names."""
        if self._verified:
            return []
        self._verified = True
        with self._cache.locked(lambda: self._progress(0)):
            return self._cache.verify(self._progress)

    def names(self) -> list[str]:
        """Models on the remote side. Raises MirrorError."""
        with self._said():
            return self._remote.look().models()

    def sync(self, only: list[str] | None = None) -> Outcome:
        """``only``: these models, as they are at this moment. Raises MirrorError: nothing could be seen, or
        it is too much."""
        outcome = Outcome(repaired=self.verify())
        outcome.changed = bool(outcome.repaired)
        with self._cache.locked(lambda: self._progress(0)):
            with self._said():
                listing = self._remote.look()
                names = listing.models()
            if not names and self._cache.models():
                raise MirrorError(f"{self._url}: it is empty, or cannot be seen")
            # At the start, and for whoever asks for one model now, what is there counts.
            self._trust = self._is_first or only is not None
            self._is_first = self._is_first and only is not None
            with self._said():
                self._follow(listing, names if only is None else sorted({*names} & {*only}), outcome)
            if only is None:
                for name in {*self._cache.models()} - {*names}:
                    if self._is_settled(name, None, None, listing, outcome):
                        self._cache.remove(name)
                        outcome.changed = True
        return outcome

    def _follow(self, listing: Listing, names: list[str], outcome: Outcome) -> None:
        wanted = []
        for name in names:
            with self._kept_apart(name, outcome):
                try:
                    found = listing.model(name)
                except FileNotFoundError:
                    if self._cache.holds(name):
                        raise
                    continue  # an empty folder
                # A web server may have folders that are no models.
                if found.versions or not CONFIG_FILES.isdisjoint(found.head) or self._cache.holds(name):
                    wanted.append(self._look_at(listing, name, found, outcome))
        budget = Budget(self._room_for(wanted))
        for model in wanted:
            with self._kept_apart(model.name, outcome):
                outcome.changed |= self._carry_out(listing, model, budget)
        self._cache.forget_staging(outcome.problems)

    # --- looking ---

    def _look_at(self, listing: Listing, name: str, found: RemoteModel, outcome: Outcome) -> _Wanted:
        self._progress(0)
        self._before[name, None] = ""  # it is there
        cached = self._cache.versions(name)
        wanted = self._look_at_head(listing, name, found)
        listed, broken = self._list_aspired(listing, name, found, wanted.staged_head, cached, outcome)
        for version, (files, complete) in sorted(listed.items(), reverse=True):
            digest = digest_of(files)
            if not self._is_settled(name, version, digest, listing, outcome, at_once=complete):
                wanted.waiting = True
            elif version not in cached or cached[version].digest != digest:
                wanted.versions[version] = found.versions[version], files
        kept = 0
        for version in sorted(cached.keys() - listed.keys() - broken, reverse=True):
            if version not in found.versions:
                if self._is_settled(name, version, None, listing, outcome):
                    wanted.gone.append(version)
                continue
            kept += 1
            if kept > _KEPT_VERSIONS or self._is_stale(listing, name, found, version, cached[version]):
                wanted.gone.append(version)
        return wanted

    def _look_at_head(self, listing: Listing, name: str, found: RemoteModel) -> _Wanted:
        """What is in no version is copied right away: it says which versions are wanted."""
        cached, digest = self._cache.head(name), digest_of(found.head)
        wanted = _Wanted(name, found.head, self._cache.staging(name, _HEAD, digest))
        if cached is not None and cached.digest == digest:
            return wanted
        known = cached.files if cached is not None else {}
        changed = {
            path: file
            for path, file in found.head.items()
            if path not in known or known[path].fingerprint != file.fingerprint
        }
        if size_of(changed) > LARGEST_HEAD_BYTES:
            raise MirrorError(f"more than {LARGEST_HEAD_BYTES} bytes outside its versions")
        written = self._downloads.fetch(listing, changed, wanted.staged_head, Budget(LARGEST_HEAD_BYTES))
        same = {path: file for path, file in known.items() if path in found.head and path not in changed}
        wanted.head_state = State(digest, same | state_of(changed, written).files)
        return wanted

    def _is_stale(self, listing: Listing, name: str, found: RemoteModel, version: int, state: State) -> bool:
        files, _ = listing.version(name, found.versions[version])
        return digest_of(files) != state.digest

    def _list_aspired(
        self,
        listing: Listing,
        name: str,
        found: RemoteModel,
        staged: Path,
        cached: dict[int, State],
        outcome: Outcome,
    ) -> tuple[dict[int, tuple[Files, bool]], set[int]]:
        """What the policy wants of the versions that can be had, and those that cannot: they count as little
        as a folder without a model on disk, unless they are here already."""
        listed: dict[int, tuple[Files, bool]] = {}
        broken: set[int] = set()
        while True:
            there = {version: at for version, at in found.versions.items() if version not in broken}
            aspired = self._aspired(name, RemoteModel(found.head, there), staged, cached)
            for version in sorted(aspired - listed.keys(), reverse=True):
                try:
                    listed[version] = listing.version(name, there[version])
                except (FileNotFoundError, MirrorError) as error:
                    if version in cached:
                        raise
                    broken.add(version)
                    if isinstance(error, MirrorError):  # the other is an upload that begins
                        outcome.problems[name] = f"version {version}: {error}"
            if aspired <= listed.keys():
                return {version: listed[version] for version in aspired}, broken

    def _aspired(
        self, name: str, found: RemoteModel, staged: Path, cached: dict[int, State]
    ) -> frozenset[int]:
        try:
            policy = self._policy(name, found, staged)
        except ConfigError:
            # The server says what is wrong with it; until it is right the versions stay.
            here = cached.keys() & found.versions.keys()
            return frozenset(here) if here else aspired_versions(Versions(), found.versions)
        return aspired_versions(policy, found.versions)

    def _policy(self, name: str, found: RemoteModel, staged: Path) -> Versions:
        """Raises ConfigError."""

        def here(file: str) -> Path:
            return staged / file if (staged / file).exists() else self._cache.root / name / file

        if "model.toml" in found.head:
            return load_toml(here("model.toml"), ModelConfig).versions
        if "config.pbtxt" in found.head:
            from servolley.config import triton  # only who has such a file pays for it

            text = read_config(here("config.pbtxt"))
            return triton.parse_text(text, self._triton_message(), name)[0].versions
        return Versions()

    def _is_settled(
        self,
        name: str,
        version: int | None,
        digest: str | None,
        listing: Listing,
        outcome: Outcome,
        *,
        at_once: bool = False,
    ) -> bool:
        """Whether the look before found the same, or need not have. ``digest``: None for what is not
        there."""
        key = name, version
        settled = listing.atomic or at_once or self._before.get(key, "") == digest
        settled = settled or (self._trust and digest is not None)
        self._before[key] = digest
        outcome.unsettled |= not settled
        return settled

    def _room_for(self, wanted: list[_Wanted]) -> int:
        """Bytes that are left for files that do not say their size. Raises MirrorError before anything is
        copied that would be too much in all."""
        total = new = 0
        for name in self._cache.models():
            head = self._cache.head(name)
            total += sum(state.size for state in self._cache.versions(name).values())
            total += head.size if head is not None else 0
        for model in wanted:
            new += sum(size_of(files) for _, files in model.versions.values())
            for version, state in self._cache.versions(model.name).items():
                if version in model.gone or version in model.versions:
                    total -= state.size
        if total + new > self._max_bytes:
            raise MirrorError(f"{total + new} bytes are more than remote.max_size")
        free = shutil.disk_usage(self._cache.root).free
        if new > free:
            raise MirrorError(f"{new} bytes are to be copied, {free} are free on the disk")
        return self._max_bytes - total - new

    # --- carrying it out ---

    def _carry_out(self, listing: Listing, model: _Wanted, budget: Budget) -> bool:
        """Whether anything is to be seen of it."""
        is_new = not self._cache.holds(model.name)
        if is_new and model.waiting and not model.versions:
            return False
        # The server looks twice where it is to see a version with its configuration.
        complete = is_new or model.head_state is None
        staged = {
            version: self._copy(listing, model.name, version, folder, files, budget, complete=complete)
            for version, (folder, files) in model.versions.items()
        }
        forget_notes(model.staged_head, model.head)
        if is_new:
            for version, place in staged.items():
                place.rename(model.staged_head / str(version))
            if model.head_state is not None:
                write_state(model.staged_head, model.head_state)
            self._cache.publish_model(model.name, model.staged_head)
            return True
        for version, place in staged.items():
            self._cache.publish_version(model.name, version, place)
        if model.head_state is not None:
            self._cache.publish_head(model.name, model.staged_head, model.head, model.head_state)
        for version in model.gone:
            self._cache.remove(model.name, version)
        return bool(staged or model.head_state is not None or model.gone)

    def _copy(
        self,
        listing: Listing,
        name: str,
        version: int,
        folder: str,
        files: Files,
        budget: Budget,
        *,
        complete: bool,
    ) -> Path:
        """The place of all of it, hidden."""
        digest = digest_of(files)
        place = self._cache.staging(name, str(version), digest)
        try:
            written = self._downloads.fetch(listing, files, place, budget)
            if not listing.atomic:
                again, _ = self._remote.look().version(name, folder)
                if digest_of(again) != digest:
                    raise MirrorError(f"version {version} changed while it was copied")
            forget_notes(place, files)
            write_state(place, state_of(files, written), complete=complete)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                shutil.rmtree(place, ignore_errors=True)  # a full disk is not to stay full
            raise
        return place

    # --- what goes wrong ---

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        """Whatever a file system raises is a MirrorError, with the URL."""
        try:
            yield
        except MirrorError as error:
            raise MirrorError(f"{self._url}: {error}") from error
        except Exception as error:
            raise MirrorError(f"{self._url}: {said(error)}") from error

    @contextlib.contextmanager
    def _kept_apart(self, model: str, outcome: Outcome) -> Iterator[None]:
        """One model's trouble is not its neighbours'."""
        try:
            yield
        except MirrorError as error:
            outcome.problems[model] = str(error)
        except Exception as error:
            outcome.problems[model] = said(error)
