"""What TensorFlow Serving's control calls answer, whichever way they came: documents that are JSON over HTTP
and messages over gRPC."""

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from servolley.front.signatures import Method, plan
from servolley.status import StatusError, invalid_argument, not_found

if TYPE_CHECKING:
    from servolley._core import Servable, TensorSpec
    from servolley.config.model import ModelConfig
    from servolley.front.context import ServerContext
    from servolley.repository.records import ModelRecord, VersionRecord


@dataclass(frozen=True, slots=True)
class Which:
    """A model, and of its versions one by number, one by label, or the newest."""

    name: str
    version: int | None = None
    label: str | None = None


def which_of(request: Any) -> Which:
    """What the ModelSpec of a request message names. Raises StatusError."""
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    spec = request.model_spec
    if not spec.name:
        raise invalid_argument("ModelSpec has no model name")
    choice = spec.WhichOneof("version_choice")
    return Which(
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


def versions_of(context: "ServerContext", which: Which) -> "list[VersionRecord]":
    """Every version that lives or has lived, newest first, or the one asked for. Raises StatusError."""
    record = context.manager.models.get(which.name)
    versions = newest_first(record) if record is not None else []
    if not versions:
        raise not_found(f"Could not find any versions of model {which.name}")
    version = _version_asked_for(which, record)
    if version is not None:
        versions = [life for life in versions if life.version == version]
        if not versions:
            raise not_found(f"Could not find version {version} of model {which.name}")
    return versions


def metadata_of(context: "ServerContext", which: Which) -> dict[str, Any]:
    """Of the version asked for. Raises StatusError."""
    servable = servable_of(context, which)
    return metadata(servable, context.model(servable.name).found.config)


def servable_of(context: "ServerContext", which: Which) -> "Servable":
    """The version asked for, or the default one. Raises StatusError."""
    record = context.manager.models.get(which.name)
    version = _version_asked_for(which, record)
    available = record.available() if record is not None else {}
    if version is None:
        version = record.default_version() if record is not None else None
        if version is None:
            raise not_found(f"Servable not found for request: Latest({which.name})")
    if version not in available:
        raise not_found(f"Servable not found for request: Specific({which.name}, {version})")
    return available[version]


def _version_asked_for(which: Which, record: "ModelRecord | None") -> int | None:
    if which.version is not None:
        return which.version
    if which.label is None or record is None:
        return None
    version_of = record.labels
    if which.label not in version_of:
        raise invalid_argument(f"Unrecognized servable version label: {which.label}")
    return version_of[which.label]


def newest_first(record: "ModelRecord") -> "list[VersionRecord]":
    return [life for _, life in sorted(record.versions.items(), reverse=True)]


def statuses(versions: "list[VersionRecord]") -> dict[str, Any]:
    return {
        "model_version_status": [
            {
                "version": str(life.version),
                "state": life.state.name,
                "status": {
                    "error_code": life.trouble.code if life.trouble else "OK",
                    "error_message": life.trouble.message if life.trouble else "",
                },
            }
            for life in versions
        ]
    }


def metadata(servable: "Servable", config: "ModelConfig") -> dict[str, Any]:
    """``config``: whose signatures for examples are listed beside that of predict calls."""
    signatures = {"serving_default": _predict_signature(servable)}
    for name, settings in config.signatures.items():
        # One that does not fit the model answers its own calls with why, and leaves the others be.
        with contextlib.suppress(StatusError):
            signatures.setdefault(name, _examples_signature(servable, config, name, Method(settings.method)))
    return {
        "model_spec": {"name": servable.name, "signature_name": "", "version": str(servable.version)},
        # Twice: a map named signature_def inside a message of that name.
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def _predict_signature(servable: "Servable") -> dict[str, Any]:
    return {
        "inputs": {spec.name: _tensor_info(spec) for spec in servable.inputs},
        "outputs": {spec.name: _tensor_info(spec) for spec in servable.outputs},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }


def _examples_signature(
    servable: "Servable", config: "ModelConfig", name: str, method: Method
) -> dict[str, Any]:
    """Examples travel serialized, in an input of strings; outputs have TensorFlow Serving's names."""
    steps = plan(servable, config, name, method)
    specs = {spec.name: spec for spec in servable.outputs}
    aliases = {"outputs" if method is Method.REGRESS else "scores": steps.values, "classes": steps.classes}
    examples = {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    return {
        "inputs": {"inputs": {"dtype": "DT_STRING", "tensor_shape": examples, "name": "inputs"}},
        "outputs": {
            alias: _tensor_info(specs[output]) for alias, output in aliases.items() if output is not None
        },
        "method_name": method.full_name,
        "defaults": {},
    }


def _tensor_info(spec: "TensorSpec") -> dict[str, Any]:
    return {
        "dtype": spec.tf_dtype,
        "tensor_shape": {
            "dim": [{"size": str(size), "name": ""} for size in spec.shape] if spec.rank_known else [],
            "unknown_rank": not spec.rank_known,
        },
        "name": spec.name,
    }
