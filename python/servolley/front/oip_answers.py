"""What the control calls of the Open Inference Protocol answer, whichever way they came: documents that are
JSON over HTTP and messages over gRPC. ``version``: digits, or None for any."""

import logging
from typing import Any, NoReturn

from servolley.front import oip_model_json as oip
from servolley.front.context import ServerContext
from servolley.status import StatusError, unimplemented

# What is not; see refuse().
CUDA_SHARED_MEMORY = "CUDA shared memory"
TRACE_SETTINGS = "trace settings"
LOG_CHANGES = "changes of log settings"


def refuse(what: str) -> NoReturn:
    raise unimplemented(f"this server does not support {what}")


def foreign_repository() -> StatusError:
    return unimplemented("'repository_name' specification is not supported")


def extensions(context: ServerContext) -> list[str]:
    """What is really there, in Triton's order."""
    shared_memory = [] if context.shared_memory is None else ["system_shared_memory"]
    return [
        "classification",
        "model_configuration",
        *shared_memory,
        "binary_tensor_data",
        "parameters",
        "statistics",
    ]


def server_metadata(context: ServerContext) -> dict[str, Any]:
    return {"name": "servolley", "version": context.version, "extensions": extensions(context)}


def model_metadata(context: ServerContext, name: str, version: str | None) -> dict[str, Any]:
    record, servable = context.servable(name, version)
    return oip.metadata(servable, record.available() if version is None else [servable.version])


def model_ready(context: ServerContext, name: str, version: str | None) -> bool:
    """Raises StatusError for an unknown model, not for an unknown version."""
    available = context.model(name).available()
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


def log_settings() -> dict[str, Any]:
    level = logging.getLogger().level
    return {
        "log_file": "",
        "log_info": level <= logging.INFO,
        "log_warning": level <= logging.WARNING,
        "log_error": level <= logging.ERROR,
        "log_verbose_level": int(level <= logging.DEBUG),
        "log_format": "ISO8601",
    }
