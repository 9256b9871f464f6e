"""TensorFlow Serving's model_config_file."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from servolley.config import tfserving
from servolley.config.strict import ConfigError, read_config
from servolley.config.tfserving import ServedModel
from servolley.repository.layout import ModelOnDisk, RepositoryError
from servolley.repository.model_list import ModelList, check_names
from servolley.repository.stamps import Stamp, stamp_of_file

_log = logging.getLogger(__name__)


class ConfigFile:
    """A source like a repository. ``message`` makes an empty ModelServerConfig; ``models`` becomes the list
    that the file holds.

    The file is read again when it has changed and ``interval_s`` have passed; 0 = never. One that cannot be
    used leaves what it said before. So does one with a model of which nothing is there to be served, until it
    is: only the first list is taken as it is.
    """

    def __init__(
        self,
        path: Path,
        message: Callable[[], Any],
        models: ModelList,
        interval_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._message = message
        self._interval_s = interval_s
        self._now = now
        self._next_read = 0.0
        self._stamp: Stamp | None = None
        self._known = False
        self._list = models
        self._waiting: list[ServedModel] | None = None  # a list that has not been taken
        self._refusal: str | None = None

    def look(self) -> dict[str, ModelOnDisk]:
        """Models by name. Raises RepositoryError: the file could never be used."""
        if not self._known or (self._interval_s > 0 and self._now() >= self._next_read):
            self._next_read = self._now() + self._interval_s
            self._read()
        return self._list.look()

    def folders(self) -> list[tuple[Path, int]]:
        """Where it looks, apart from the file itself."""
        return self._list.folders()

    def _read(self) -> None:
        stamp = stamp_of_file(self._path)
        if not self._known or stamp != self._stamp:
            self._stamp = stamp
            self._waiting = self._refusal = None
            try:
                served = tfserving.parse_text(read_config(self._path), self._message())
                check_names(served)
            except ConfigError as error:
                if not self._known:
                    raise RepositoryError(f"{self._path}: {error}") from error
                self._refuse(str(error))
                return
            self._waiting = served
        if self._waiting is None:
            return
        refusal = self._list.refusal(self._waiting) if self._known else None
        if refusal is not None:
            self._refuse(refusal)
            return
        self._list.served, self._known, self._waiting = self._waiting, True, None

    def _refuse(self, why: str) -> None:
        """Says it once."""
        if why != self._refusal:
            _log.error("the model configuration stays as it was", extra={"fields": {"error": why}})
        self._refusal = why
