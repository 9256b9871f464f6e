"""What the control routes may look at."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from servolley.observe.logs import LevelGate, level_gate
from servolley.repository.control import ModelControl, NoModelControl
from servolley.status import not_found, unavailable

if TYPE_CHECKING:
    from servolley._core import Servable
    from servolley.front.example_calls import ExampleCalls
    from servolley.front.inner import InnerCalls
    from servolley.front.shared_memory import SharedMemory
    from servolley.observe.tracing import Tracing
    from servolley.repository.manager import Manager
    from servolley.repository.records import ModelRecord
    from servolley.repository.reload import ReloadControl


@dataclass(slots=True)
class ServerContext:
    """One server's state, as the routes see it. ``leaving``: serves on, but is not ready any more.
    ``draining``: on its way down. ``shared_memory``: None where clients may not register any. ``inner``:
    inference for control routes. ``examples``: those that need it. ``tracing``: None until the engine runs.
    ``log_gate``: which levels are logged. ``reload``: TensorFlow Serving's; None where the repository API
    decides what is loaded.
    """

    version: str
    manager: "Manager"
    control: ModelControl = field(default_factory=NoModelControl)
    shared_memory: "SharedMemory | None" = None
    inner: "InnerCalls | None" = None
    examples: "ExampleCalls | None" = None
    tracing: "Tracing | None" = None
    log_gate: LevelGate = field(default_factory=level_gate)
    reload: "ReloadControl | None" = None
    leaving: bool = False
    draining: bool = False

    @property
    def staying(self) -> bool:
        return not (self.leaving or self.draining)

    @property
    def ready(self) -> bool:
        return self.manager.ready and self.staying

    def model(self, name: str) -> "ModelRecord":
        """Raises StatusError NOT_FOUND, with Triton's text."""
        record = self.manager.models.get(name)
        if record is None:
            raise not_found(f"Request for unknown model: '{name}' is not found")
        return record

    def servable(self, name: str, version: str | None) -> "tuple[ModelRecord, Servable]":
        """The version asked for, or the default one. Raises StatusError, with the core's texts."""
        record = self.model(name)
        available = record.available()
        if version is None:
            default = record.default_version()
            if default is None:
                raise unavailable(f"Request for unknown model: '{name}' has no version at ready state")
            return record, available[default]
        servable = available.get(int(version))
        if servable is None:
            raise not_found(
                f"Request for unknown model: '{name}' version {int(version)} is not at ready state"
            )
        return record, servable
