"""Several repositories as one. A model that is in two of them is in none: which one is meant?"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from servolley.config.model import ModelConfig
from servolley.repository.layout import ModelOnDisk, Scanner

TWICE = "it is in more than one repository"


class SeveralRepositories:
    """Looks like a Scanner, into each of ``scanners``. What keeps one of them from being looked at keeps all
    of it from being believed."""

    def __init__(self, scanners: Sequence[Scanner]) -> None:
        self._scanners = scanners

    def look(self) -> dict[str, ModelOnDisk]:
        """Models by name. Raises RepositoryError."""
        models: dict[str, ModelOnDisk] = {}
        for scanner in self._scanners:
            for name, model in scanner.look().items():
                models[name] = _twice(model) if name in models else model
        return models

    def folders(self) -> list[tuple[Path, int]]:
        """Where it looks, and how deep."""
        return [folder for scanner in self._scanners for folder in scanner.folders()]

    def look_at(self, name: str, config: ModelConfig | None = None) -> ModelOnDisk | None:
        """One model; None if there is none of that name. ``config``: see Scanner. Raises RepositoryError."""
        found = [model for each in self._scanners if (model := each.look_at(name, config)) is not None]
        if len(found) > 1:
            return _twice(found[0])
        return found[0] if found else None

    def names(self) -> list[str]:
        """Models that could be loaded. Raises RepositoryError."""
        return sorted({name for scanner in self._scanners for name in scanner.names()})


def _twice(model: ModelOnDisk) -> ModelOnDisk:
    return replace(model, config=ModelConfig(), versions={}, stamps={}, complete=frozenset(), error=TWICE)
