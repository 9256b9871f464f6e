"""What the control calls of the Open Inference Protocol answer, whichever way they came: documents that are
JSON over HTTP and messages over gRPC. ``version``: digits, or None for any."""

from collections.abc import Mapping
from typing import Any, NoReturn

from servolley.front import oip_model_json as oip
from servolley.front.context import ServerContext
from servolley.observe.log_settings import change_log_settings, log_settings
from servolley.observe.trace_settings import Sent
from servolley.status import StatusError, unimplemented


def refuse(what: str) -> NoReturn:
    """Of what is not there."""
    raise unimplemented(f"this server does not support {what}")


def foreign_repository() -> StatusError:
    return unimplemented("'repository_name' specification is not supported")


def extensions(context: ServerContext) -> list[str]:
    """What is really there, in Triton's order."""
    shared_memory = [] if context.shared_memory is None else ["system_shared_memory", "cuda_shared_memory"]
    return [
        "classification",
        "model_configuration",
        *shared_memory,
        "binary_tensor_data",
        "parameters",
        "statistics",
        *(["trace"] if context.tracing is not None and context.tracing.available else []),
        "logging",
    ]


def server_metadata(context: ServerContext) -> dict[str, Any]:
    return {"name": "servolley", "version": context.version, "extensions": extensions(context)}


def model_metadata(context: ServerContext, name: str, version: str | None) -> dict[str, Any]:
    record, servable = context.servable(name, version)
    return oip.metadata(servable, record.available() if version is None else [servable.version])


def model_ready(context: ServerContext, name: str, version: str | None) -> bool:
    """Raises StatusError for an unknown model, not for an unknown version."""
    available = context.model(name).available()
    if not context.staying:
        return False
    return bool(available) if version is None else int(version) in available


def model_config(context: ServerContext, name: str, version: str | None) -> dict[str, Any]:
    return oip.model_config(*context.servable(name, version))


def model_statistics(context: ServerContext, name: str, version: str | None) -> dict[str, Any]:
    record, servable = context.servable(name, version)
    servables = record.available().values() if version is None else [servable]
    return {"model_stats": [oip.statistics(each) for each in servables]}


def all_statistics(context: ServerContext) -> dict[str, Any]:
    models = context.manager.models.values()
    return {"model_stats": [oip.statistics(each) for model in models for each in model.available().values()]}


async def repository_index(context: ServerContext, *, only_ready: bool) -> list[dict[str, str]]:
    """Every version that lives or has lived; of a model that never did, only the name."""
    names = await context.control.names()
    models = context.manager.models
    entries = [entry for model in models.values() for entry in oip.index_entries(model)]
    entries += [{"name": name} for name in names if name not in models]
    return [entry for entry in entries if not only_ready or entry.get("state") == "READY"]


def trace_settings(
    context: ServerContext, model: str | None, changes: Mapping[str, Sent]
) -> dict[str, list[str] | str]:
    """What holds after ``changes``. ``model``: None for the server."""
    tracing = context.tracing
    if tracing is None:
        refuse("trace settings")
    if model is not None:
        context.model(model)  # raises StatusError for one that there is not
    if changes:
        tracing.change(model, changes, context.manager.models)
    return tracing.settings(model)


def logging_settings(context: ServerContext, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What holds after ``changes``."""
    if changes:
        change_log_settings(context.log_gate, changes)
    return log_settings(context.log_gate)
