"""Shared memory that clients register, whichever way the call came. What a region is, and every check of it,
is the core's; this turns the calls' values and the core's errors."""

import asyncio
import base64
import binascii
from typing import TYPE_CHECKING, Any

from servolley._core import CoreError
from servolley.status import core_failure, invalid_argument, not_found, unimplemented

if TYPE_CHECKING:
    from servolley._core import CudaSharedMemoryRegion, Engine, SharedMemoryRegion

_LARGEST = (1 << 64) - 1
_LARGEST_DEVICE = (1 << 31) - 1
_HANDLE_BYTES = 64


class SharedMemory:
    """The regions of one engine. Raises StatusError."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._opening = asyncio.Lock()  # one thread at most does nothing else

    def regions(self) -> "list[SharedMemoryRegion]":
        return self._engine.shared_memory_regions()

    async def register(self, name: str, key: Any, offset: Any, byte_size: Any) -> None:
        """Where a GPU is in use the region is pinned for it, which takes too long for the loop."""
        if not isinstance(key, str):
            raise invalid_argument("'key' must be a string")
        for what, value in (("offset", offset), ("byte_size", byte_size)):
            _check_number(what, value, _LARGEST)
        try:
            memory = self._engine.register_shared_memory(name, key, offset, byte_size)
        except CoreError as error:
            raise core_failure(error) from error
        if memory is not None:
            async with self._opening:
                await asyncio.to_thread(self._engine.pin_shared_memory, memory)

    def unregister(self, name: str | None) -> None:
        """None: all of them in system memory. An unknown name is no error."""
        self._engine.unregister_shared_memory(name)

    def cuda_regions(self) -> "list[CudaSharedMemoryRegion]":
        return self._engine.cuda_shared_memory_regions()

    async def register_cuda(self, name: str, raw_handle: bytes, device: Any, byte_size: Any) -> None:
        """``raw_handle``: what cudaIpcGetMemHandle gave. The first region on a device initializes the device:
        that takes too long for the loop."""
        _check_number("device_id", device, _LARGEST_DEVICE)
        _check_number("byte_size", byte_size, _LARGEST)
        if len(raw_handle) != _HANDLE_BYTES:
            raise invalid_argument(f"'raw_handle' must have {_HANDLE_BYTES} bytes, not {len(raw_handle)}")
        try:
            async with self._opening:
                self._engine.may_register_shared_memory(name, byte_size)
                memory = await asyncio.to_thread(self._engine.open_cuda_memory, raw_handle, device, byte_size)
                self._engine.register_cuda_shared_memory(name, memory, byte_size)
        except CoreError as error:
            raise core_failure(error) from error

    def unregister_cuda(self, name: str | None) -> None:
        """None: all of them in memory of GPUs. An unknown name is no error."""
        self._engine.unregister_cuda_shared_memory(name)


def _check_number(what: str, value: Any, largest: int) -> None:
    if type(value) is not int or not 0 <= value <= largest:
        raise invalid_argument(f"'{what}' must be an integer from 0 to {largest}")


def handle_in_json(document: Any) -> bytes:
    """The bytes in ``{"b64": "..."}``, as Triton's clients send a CUDA IPC handle over REST."""
    text = document.get("b64") if isinstance(document, dict) else None
    if not isinstance(text, str):
        raise invalid_argument("'raw_handle' must be an object with the handle in base64 as 'b64'")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid_argument("'raw_handle' is not base64") from error


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


def cuda_registered(memory: SharedMemory | None, name: str | None) -> "list[CudaSharedMemoryRegion]":
    """As registered(), of regions in memory of GPUs."""
    regions = [] if memory is None else memory.cuda_regions()
    if name is None:
        return regions
    found = [region for region in regions if region["name"] == name]
    if not found:
        raise not_found(f"Unable to find cuda shared memory region: '{name}'")
    return found
