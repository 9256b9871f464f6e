"""Loading and unloading on a client's request: the seam, and the mode in which nobody may."""

from typing import Any, Protocol

from servolley.status import unavailable


class ModelControl(Protocol):
    """load and unload return when the change is done, and raise StatusError if it cannot be."""

    async def load(self, name: str, parameters: dict[str, Any]) -> None: ...

    async def unload(self, name: str, parameters: dict[str, Any]) -> None: ...

    async def names(self) -> list[str]:
        """Models that could be loaded, those that are included."""
        ...

    def close(self) -> None: ...


class NoModelControl:
    """The repository on disk decides alone. The text is Triton's in the same mode."""

    async def load(self, name: str, parameters: dict[str, Any]) -> None:
        raise unavailable("explicit model load / unload is not allowed if polling is enabled")

    async def unload(self, name: str, parameters: dict[str, Any]) -> None:
        raise unavailable("explicit model load / unload is not allowed if polling is enabled")

    async def names(self) -> list[str]:
        return []

    def close(self) -> None:
        pass
