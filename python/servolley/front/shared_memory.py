"""Shared memory that clients register, whichever way the call came. What a region is, and every check of it,
is the core's; this turns the calls' values and the core's errors."""

from typing import TYPE_CHECKING, Any

from servolley._core import CoreError
from servolley.status import core_failure, invalid_argument, not_found, unimplemented

if TYPE_CHECKING:
    from servolley._core import Engine, SharedMemoryRegion

_LARGEST = (1 << 64) - 1


class SharedMemory:
    """The regions of one engine. Raises StatusError."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine

    def regions(self) -> "list[SharedMemoryRegion]":
        return self._engine.shared_memory_regions()

    def register(self, name: str, key: Any, offset: Any, byte_size: Any) -> None:
        if not isinstance(key, str):
            raise invalid_argument("'key' must be a string")
        for what, value in (("offset", offset), ("byte_size", byte_size)):
            if type(value) is not int or not 0 <= value <= _LARGEST:
                raise invalid_argument(f"'{what}' must be an integer from 0 to {_LARGEST}")
        try:
            self._engine.register_shared_memory(name, key, offset, byte_size)
        except CoreError as error:
            raise core_failure(error) from error

    def unregister(self, name: str | None) -> None:
        """None: all of them. An unknown name is no error."""
        self._engine.unregister_shared_memory(name)


def may_register(memory: SharedMemory | None) -> SharedMemory:
    if memory is None:
        raise unimplemented(
            "this server does not support shared memory: it is started without --shared-memory"
        )
    return memory


def registered(memory: SharedMemory | None, name: str | None) -> "list[SharedMemoryRegion]":
    """Every region, or the one of that name. Where there can be none there is none: no error."""
    regions = [] if memory is None else memory.regions()
    if name is None:
        return regions
    found = [region for region in regions if region["name"] == name]
    if not found:
        raise not_found(f"Unable to find system shared memory region: '{name}'")
    return found
