"""The models that a list of TensorFlow Serving's names, each in a folder of its own; and the source whose
place a client's list takes."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from servolley.config.strict import ConfigError
from servolley.config.tfserving import MESSAGE, ServedModel
from servolley.repository.discovery import Source
from servolley.repository.layout import ModelOnDisk, Scanner
from servolley.repository.names import valid_model_name
from servolley.repository.versions import aspired_versions

_log = logging.getLogger(__name__)


class ModelList:
    """A source like a repository. ``scanner``: looks into the folders. ``once``: only when another list has
    been put into ``served``."""

    def __init__(self, scanner: Scanner, served: Sequence[ServedModel] = (), *, once: bool = False) -> None:
        self.served = served
        self._scanner = scanner
        self._once = once
        self._seen: tuple[Sequence[ServedModel], dict[str, ModelOnDisk]] | None = None

    def look(self) -> dict[str, ModelOnDisk]:
        """Models by name. The list decides on versions and labels; whatever else a folder says of its model
        holds."""
        if self._once and self._seen is not None and self._seen[0] is self.served:
            return self._seen[1]
        served = self.served
        models = self._look_into(served)
        self._seen = (served, models) if self._once else None
        return models

    def refusal(self, served: Sequence[ServedModel]) -> str | None:
        """Why this list cannot take the place of the one that holds: of a model that it says something new of
        there is nothing to serve. One with a configuration that cannot be used is no reason: what is loaded
        of it goes on serving."""
        new = [each for each in served if each not in self.served]
        for each in new:
            model = self._look_into([each], quietly=True)[each.name]
            if model.unreadable:
                why = "cannot be read"
            elif not Path(each.base_path).exists():
                why = "does not exist"
            elif model.empty:
                why = "holds no version"
            elif model.error is None and not aspired_versions(model.config.versions, model.versions):
                why = "holds no version that the policy wants"
            else:
                continue
            return f"model '{each.name}': base_path {each.base_path} {why}"
        return None

    def _look_into(self, listed: Sequence[ServedModel], *, quietly: bool = False) -> dict[str, ModelOnDisk]:
        folders = {each.name: Path(each.base_path) for each in listed}
        models = self._scanner.look_into(folders, quietly=quietly)
        for served in listed:
            found = models[served.name]
            versions = msgspec.structs.replace(served.versions, preserve=found.config.versions.preserve)
            try:
                config, error = msgspec.structs.replace(found.config, versions=versions), found.error
            except ValueError as problem:  # what the folder says needs versions that the list does not want
                config, error = found.config, str(problem)
            stamp = (found.config_stamp, served)
            models[served.name] = replace(found, config=config, error=error, config_stamp=stamp)
        return models

    def folders(self) -> list[tuple[Path, int]]:
        """Where it looks, and how deep."""
        return [(Path(each.base_path), 5) for each in self.served]


def check_names(served: Sequence[ServedModel]) -> None:
    """Raises ConfigError."""
    for each in served:
        if not valid_model_name(each.name):
            raise ConfigError(f"{MESSAGE}: not a model name: {each.name[:100]!r}")


class ReplaceableSource:
    """``source``, until a list takes its place.

    reverts_s: how often the file behind ``source`` is read; at the next reading it holds again. 0 = never.
    """

    def __init__(
        self, source: Source, reverts_s: float = 0.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._first = source
        self._current = source
        self._reverts_s = reverts_s
        self._reverts_at = 0.0
        self._now = now
        self._lock = threading.Lock()  # looks are taken on a thread

    def look(self) -> dict[str, ModelOnDisk]:
        """Raises RepositoryError."""
        with self._lock:
            if self._current is not self._first and self._reverts_s > 0 and self._now() >= self._reverts_at:
                _log.warning("the model configuration file holds again, instead of what a client had set")
                self._current = self._first
            current = self._current
        return current.look()

    def folders(self) -> list[tuple[Path, int]]:
        """Where the one that holds looks, and how deep."""
        return self._current.folders()

    def replace(self, by: Source) -> None:
        """Any thread."""
        with self._lock:
            self._current = by
            self._reverts_at = self._now() + self._reverts_s
