"""inference.GRPCInferenceService without its inference, which never leaves the core."""

import re
from collections.abc import Callable
from typing import Any

from servolley.front import oip_answers as oip
from servolley.front.context import ServerContext
from servolley.front.gate import Access
from servolley.front.grpc.messages import Document, Messages
from servolley.front.grpc.methods import Method
from servolley.front.shared_memory import cuda_registered, may_register, registered
from servolley.repository.names import LARGEST_VERSION, valid_model_name
from servolley.status import invalid_argument

SERVICE = "inference.GRPCInferenceService"

# What is not for everybody who reaches the port.
_ACCESS: dict[str, Any] = {
    "RepositoryIndex": Access.INSIGHT,
    "RepositoryModelLoad": Access.ADMIN,
    "RepositoryModelUnload": Access.ADMIN,
    "TraceSetting": lambda request: _to_settings(request),
    "LogSettings": lambda request: _to_settings(request),
}

_DIGITS = re.compile(r"0*([0-9]{1,19})", re.ASCII)


class OipService:
    """Handlers over one server's context; each takes a request message and answers with a document."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    def methods(self, messages: Messages) -> dict[str, Method]:
        handlers: dict[str, Callable[[Any], Any]] = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ServerMetadata": self.server_metadata,
            "ModelReady": self.model_ready,
            "ModelMetadata": self.model_metadata,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.model_statistics,
            "RepositoryIndex": self.repository_index,
            "RepositoryModelLoad": self.load,
            "RepositoryModelUnload": self.unload,
            "TraceSetting": self.trace_settings,
            "LogSettings": self.log_settings,
            "SystemSharedMemoryStatus": self.shared_memory_status,
            "SystemSharedMemoryRegister": self.register_shared_memory,
            "SystemSharedMemoryUnregister": self.unregister_shared_memory,
            "CudaSharedMemoryStatus": self.cuda_shared_memory_status,
            "CudaSharedMemoryRegister": self.register_cuda_shared_memory,
            "CudaSharedMemoryUnregister": self.unregister_cuda_shared_memory,
        }
        methods: dict[str, Method] = {}
        for name, handler in handlers.items():
            target = f"/{SERVICE}/{name}"
            methods[target] = messages.unary(target, handler, _ACCESS.get(name, Access.OPEN))
        return methods

    def server_live(self, _: Any) -> Document:
        return {"live": not self._context.draining}

    def server_ready(self, _: Any) -> Document:
        return {"ready": self._context.ready}

    def server_metadata(self, _: Any) -> Document:
        return oip.server_metadata(self._context)

    def model_ready(self, request: Any) -> Document:
        return {"ready": oip.model_ready(self._context, *_which(request))}

    def model_metadata(self, request: Any) -> Document:
        return oip.model_metadata(self._context, *_which(request))

    def model_config(self, request: Any) -> Document:
        return {"config": oip.model_config(self._context, *_which(request))}

    def model_statistics(self, request: Any) -> Document:
        if not request.name:
            return oip.all_statistics(self._context)
        return oip.model_statistics(self._context, *_which(request))

    async def repository_index(self, request: Any) -> Document:
        return {"models": await oip.repository_index(self._context, only_ready=request.ready)}

    async def load(self, request: Any) -> Document:
        await self._context.control.load(*_change(request))
        return {}

    async def unload(self, request: Any) -> Document:
        await self._context.control.unload(*_change(request))
        return {}

    def shared_memory_status(self, request: Any) -> Document:
        regions = registered(self._context.shared_memory, request.name or None)
        return {"regions": {region["name"]: region for region in regions}}

    async def register_shared_memory(self, request: Any) -> Document:
        memory = may_register(self._context.shared_memory)
        await memory.register(request.name, request.key, request.offset, request.byte_size)
        return {}

    def unregister_shared_memory(self, request: Any) -> Document:
        may_register(self._context.shared_memory).unregister(request.name or None)
        return {}

    def cuda_shared_memory_status(self, request: Any) -> Document:
        regions = cuda_registered(self._context.shared_memory, request.name or None)
        return {"regions": {region["name"]: region for region in regions}}

    async def register_cuda_shared_memory(self, request: Any) -> Document:
        memory = may_register(self._context.shared_memory)
        await memory.register_cuda(request.name, request.raw_handle, request.device_id, request.byte_size)
        return {}

    def unregister_cuda_shared_memory(self, request: Any) -> Document:
        may_register(self._context.shared_memory).unregister_cuda(request.name or None)
        return {}

    def log_settings(self, request: Any) -> Document:
        changes = {key: _one_of(key, value, "setting") for key, value in request.settings.items()}
        settings = oip.logging_settings(self._context, changes)
        return {"settings": {key: _setting(value) for key, value in settings.items()}}

    def trace_settings(self, request: Any) -> Document:
        changes = {key: list(value.value) for key, value in request.settings.items()}
        model = _model_name(request.model_name) if request.model_name else None
        settings = oip.trace_settings(self._context, model, changes)
        return {
            "settings": {
                key: {"value": value if isinstance(value, list) else [value]}
                for key, value in settings.items()
            }
        }


def _to_settings(request: Any) -> Access:
    """Without settings the call only asks for them."""
    return Access.ADMIN if request.settings else Access.INSIGHT


def _which(request: Any) -> tuple[str, str | None]:
    """The model's name and the version's digits, None for any. Raises StatusError."""
    if not request.version:
        return _model_name(request.name), None
    digits = _DIGITS.fullmatch(request.version)
    if digits is None or int(digits[1]) > LARGEST_VERSION:
        raise invalid_argument("model_version must be a decimal number or empty")
    return _model_name(request.name), digits[1]


def _change(request: Any) -> tuple[str, dict[str, Any]]:
    if request.repository_name:
        raise oip.foreign_repository()
    parameters = {}
    for key, value in request.parameters.items():
        parameters[key] = _one_of(key, value, "parameter")
    return _model_name(request.model_name), parameters


def _one_of(key: str, value: Any, what: str) -> Any:
    choice = value.WhichOneof("parameter_choice")
    if choice is None:
        raise invalid_argument(f"{what} '{key[:100]}' has no value")
    return getattr(value, choice)


def _model_name(name: str) -> str:
    if not valid_model_name(name):
        raise invalid_argument("not a model name")
    return name


def _setting(value: bool | int | str) -> Document:
    if isinstance(value, bool):
        return {"bool_param": value}
    return {"uint32_param" if isinstance(value, int) else "string_param": value}
