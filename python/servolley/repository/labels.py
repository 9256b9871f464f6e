"""Labels that are moved while the server runs. What is moved holds over what the configuration says, until
the labels in the configuration change."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from servolley.repository.names import valid_model_name
from servolley.status import Code, StatusError, invalid_argument, not_found

if TYPE_CHECKING:
    from servolley.repository.manager import Manager
    from servolley.repository.records import ModelRecord

MOST_LABELS = 256  # of one model

#: Label -> where it was moved to; None: it was taken away.
Moves = Mapping[str, int | None]


def wanted_labels(configured: Mapping[str, int], moves: Moves) -> dict[str, int]:
    """Label -> version, whether that is available or still on its way. Pure."""
    wanted = {**configured, **moves}
    return {label: version for label, version in wanted.items() if version is not None}


@dataclass(frozen=True, slots=True)
class LabelState:
    """version: where it is wanted. routed: where it leads now, None if nowhere yet."""

    version: int
    routed: int | None


class Labels:
    """The labels of one manager's models. Raises StatusError."""

    def __init__(self, manager: "Manager") -> None:
        self._manager = manager

    def of(self, name: str) -> dict[str, LabelState]:
        model = self._model(name)
        wanted = wanted_labels(model.found.config.versions.labels, model.label_moves)
        return {label: LabelState(version, model.labels.get(label)) for label, version in wanted.items()}

    def move(self, name: str, label: str, version: int) -> LabelState:
        """At once if the version is available; else when it is: until then the label stays where it is."""
        model = self._model(name)
        if not valid_model_name(label):
            raise invalid_argument("not a label")
        life = model.versions.get(version)
        if version not in model.aspired and version not in model.available():
            raise not_found(f"version {version} of '{name}' is neither available nor on its way")
        if life is not None and life.failure is not None:
            raise StatusError(
                Code.FAILED_PRECONDITION,
                f"version {version} of '{name}' failed to load: {life.failure.message}",
            )
        labels = self.of(name)
        if label not in labels and len(labels) >= MOST_LABELS:
            raise StatusError(Code.RESOURCE_EXHAUSTED, f"'{name}' has {MOST_LABELS} labels already")
        self._change(model, label, version)
        return self.of(name)[label]

    def remove(self, name: str, label: str) -> None:
        if label not in self.of(name):
            raise not_found(f"'{name}' has no label '{label}'")
        self._change(self._model(name), label, None)

    def _change(self, model: "ModelRecord", label: str, version: int | None) -> None:
        configured = model.found.config.versions.labels
        if configured.get(label) == version:
            model.label_moves.pop(label, None)
        else:
            model.label_moves[label] = version
        self._manager.labels_moved(model)

    def _model(self, name: str) -> "ModelRecord":
        model = self._manager.models.get(name)
        if model is None:
            raise not_found(f"Request for unknown model: '{name}' is not found")
        return model
