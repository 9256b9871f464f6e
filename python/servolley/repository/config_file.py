"""The models that TensorFlow Serving's model_config_file lists, each in a folder of its own."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from servolley.config import tfserving
from servolley.config.strict import ConfigError, read_config
from servolley.config.tfserving import ServedModel
from servolley.repository.layout import ModelOnDisk, RepositoryError, Scanner
from servolley.repository.names import valid_model_name
from servolley.repository.stamps import Stamp, stamp_of_file

_log = logging.getLogger(__name__)


class ConfigFile:
    """A source like a repository. ``message`` makes an empty ModelServerConfig.

    The file is read again when it has changed and ``interval_s`` have passed; 0 = never. One that cannot be
    used leaves what it said before.
    """

    def __init__(
        self,
        path: Path,
        message: Callable[[], Any],
        triton_message: Callable[[], Any],
        interval_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._message = message
        self._interval_s = interval_s
        self._now = now
        self._next_read = 0.0
        self._stamp: Stamp | None = None
        self._served: list[ServedModel] | None = None
        self._scanner = Scanner(path.parent, triton_message=triton_message)

    def look(self) -> dict[str, ModelOnDisk]:
        """Models by name. Raises RepositoryError: the file could never be used."""
        if self._served is None or (self._interval_s > 0 and self._now() >= self._next_read):
            self._next_read = self._now() + self._interval_s
            self._read()
        models = self._scanner.look_into({each.name: Path(each.base_path) for each in self._served or ()})
        for served in self._served or ():
            found = models[served.name]
            versions = msgspec.structs.replace(served.versions, preserve=found.config.versions.preserve)
            models[served.name] = replace(
                found,
                config=msgspec.structs.replace(found.config, versions=versions),
                config_stamp=(found.config_stamp, served),
            )
        return models

    def folders(self) -> list[tuple[Path, int]]:
        """Where it looks, apart from the file itself."""
        return [(Path(each.base_path), 5) for each in self._served or ()]

    def _read(self) -> None:
        stamp = stamp_of_file(self._path)
        if self._served is not None and stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            served = tfserving.parse_text(read_config(self._path), self._message())
            for each in served:
                if not valid_model_name(each.name):
                    raise ConfigError(f"{tfserving.MESSAGE}: not a model name: {each.name!r}")
        except ConfigError as error:
            if self._served is None:
                raise RepositoryError(f"{self._path}: {error}") from error
            _log.error("the model configuration stays as it was", extra={"fields": {"error": str(error)}})
            return
        self._served = served
