"""What the server remembers of each model: written by the manager, read by all, on the loop thread."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from servolley.repository.traffic import TrafficRecord
from servolley.repository.versions import State, may_follow

if TYPE_CHECKING:
    from pathlib import Path

    from servolley._core import Servable, Shadow
    from servolley.repository.content import Content
    from servolley.repository.layout import ModelOnDisk
    from servolley.repository.routing import Routing

    Routes = tuple[dict[int, Servable], int | None, dict[str, int], dict[int, int], Shadow | None]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a version ended: a canonical code name and a text for people."""

    code: str
    message: str


@dataclass(slots=True)
class VersionRecord:
    """One life of one version.

    failure: why it ended, where it ought not to have. overdue: why its memory is not free although it has
    ended. fingerprint: of its weights, where something was decided about such a version; see traffic.py.
    """

    version: int
    path: "Path"
    content: "Content | None" = None
    attempt: int = 0  # earlier lives that ended in a failure
    available_since: float | None = None  # on the loop's clock
    state: State = State.START
    failure: Failure | None = None
    overdue: Failure | None = None
    servable: "Servable | None" = None
    fingerprint: str | None = None

    @property
    def trouble(self) -> Failure | None:
        """What to tell people."""
        return self.failure or self.overdue

    def advance(self, state: State) -> None:
        if not may_follow(self.state, state):
            raise ValueError(f"version {self.version} cannot go from {self.state.name} to {state.name}")
        self.state = state

    def fail(self, failure: Failure) -> None:
        self.advance(State.END)
        self.failure = failure


@dataclass(slots=True)
class ModelRecord:
    """One model of the repository.

    failure: why nothing of it can be loaded, or why what is on disk by now cannot be used.
    versions: the life of each version that counts. replacements: lives that are loading to take the place of
    one that is available; refused: version -> the failed replacement, whose content is not tried again.
    labels: where each label leads; label_moves: where some were moved to at run time, see labels.py.
    expected: the server is not ready without it. kept: stays known although nothing of it is wanted.
    traffic: what was decided about requests that name no version. routes: what the core was told last:
    available versions, the default, labels, the split, the shadow.
    """

    name: str
    found: "ModelOnDisk"
    aspired: frozenset[int] = frozenset()
    failure: Failure | None = None
    versions: dict[int, VersionRecord] = field(default_factory=dict)
    replacements: dict[int, VersionRecord] = field(default_factory=dict)
    refused: dict[int, VersionRecord] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    label_moves: dict[str, int | None] = field(default_factory=dict)
    expected: bool = False
    kept: bool = False
    traffic: TrafficRecord = field(default_factory=TrafficRecord)
    routes: "Routes | None" = None

    def is_aspired_as(self, on_disk: "ModelOnDisk") -> bool:
        """Whether everything that follows from ``on_disk`` has been begun."""
        if not self.aspired or self.failure is not None or self.kept:
            return False
        return self.found is on_disk or self.found == on_disk

    def available(self) -> "dict[int, Servable]":
        """Versions that answer requests, ascending. One whose devices have failed does not."""
        return {
            version: record.servable
            for version, record in sorted(self.versions.items())
            if record.state is State.AVAILABLE and record.servable is not None and not record.servable.broken
        }

    def arriving(self) -> bool:
        """Whether a version is wanted that is not there yet, and has not failed."""
        lives = [self.versions.get(version) for version in self.aspired]
        return any(life is None or life.state in {State.START, State.LOADING} for life in lives)

    def weights(self) -> dict[int, object]:
        """What available versions were loaded from; see Content."""
        return {
            version: record.content.weights
            for version, record in self.versions.items()
            if record.state is State.AVAILABLE and record.content is not None
        }

    def routing(self) -> "Routing":
        """Where requests go that name no version."""
        return self.traffic.routing(self.found.config, self.available())

    def default_version(self) -> int | None:
        """The version that most of them go to."""
        return self.routing().default
