"""The control calls of TensorFlow Serving's REST API. Paths match in any letter case, a verb after the colon
does not."""

from typing import TYPE_CHECKING, Any, NoReturn

from servolley.front.calls import JSON, Call, Reply, error_reply, json_reply
from servolley.front.context import ServerContext
from servolley.front.router import Router
from servolley.status import invalid_argument, not_found, unimplemented

if TYPE_CHECKING:
    from servolley._core import Servable, TensorSpec
    from servolley.repository.records import ModelRecord, VersionRecord

_MODEL = r"/v1/models/(?P<model>[^/:]+)"
_WHICH = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"


class TfsRoutes:
    """Handlers over one server's context."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    def register(self, router: Router) -> None:
        for pattern, handlers in (
            (r"/v1/models", {"GET": self.model_list}),
            (_MODEL + _WHICH, {"GET": self.status}),
            (_MODEL + _WHICH + "/metadata", {"GET": self.metadata}),
            # The core answers POST itself; what comes here has the wrong verb.
            (_MODEL + _WHICH + "(?-i::predict)", {"POST": self.not_reached}),
            (_MODEL + _WHICH + "(?-i::(?:classify|regress))", {"POST": self.classify_or_regress}),
        ):
            router.add(pattern, {**handlers, "OPTIONS": self.options}, ignore_case=True)
        router.add_fallback("/v1/", self.malformed)

    def malformed(self, call: Call) -> Reply:
        if call.method == "OPTIONS":
            return self.options(call)
        return error_reply(400, f"Malformed request: {call.method} {call.path}")

    def options(self, call: Call) -> Reply:
        origin = call.header("origin") or ""
        if "http://" in origin or "https://" in origin:
            return Reply(200, b"", JSON)
        return error_reply(400, f"Malformed request: {call.method} {call.path}")

    def model_list(self, _: Call) -> Reply:
        """Ours; TensorFlow Serving has none."""
        models = self._context.manager.models.values()
        return json_reply(
            {"models": [{"name": model.name} | _statuses(_newest_first(model)) for model in models]}
        )

    def status(self, call: Call) -> Reply:
        name = call.params["model"]
        record = self._context.manager.models.get(name)
        versions = _newest_first(record) if record is not None else []
        if not versions:
            raise not_found(f"Could not find any versions of model {name}")
        version = self._version_asked_for(call, record)
        if version is not None:
            versions = [life for life in versions if life.version == version]
            if not versions:
                raise not_found(f"Could not find version {version} of model {name}")
        return json_reply(_statuses(versions))

    def metadata(self, call: Call) -> Reply:
        name = call.params["model"]
        record = self._context.manager.models.get(name)
        version = self._version_asked_for(call, record)
        available = record.available() if record is not None else {}
        if version is None:
            version = max(available, default=None)
            if version is None:
                raise not_found(f"Servable not found for request: Latest({name})")
        if version not in available:
            raise not_found(f"Servable not found for request: Specific({name}, {version})")
        return json_reply(_metadata(available[version]))

    def _version_asked_for(self, call: Call, record: "ModelRecord | None") -> int | None:
        if (version := call.params.get("version")) is not None:
            return int(version)
        label = call.params.get("label")
        if label is None or record is None:
            return None
        version_of = record.labels()
        if label not in version_of:
            raise invalid_argument(f"Unrecognized servable version label: {label}")
        return version_of[label]

    def classify_or_regress(self, _: Call) -> NoReturn:
        raise unimplemented("this server does not support classify and regress")

    def not_reached(self, _: Call) -> NoReturn:
        raise RuntimeError("the core did not recognise a predict call")


def _newest_first(record: "ModelRecord") -> "list[VersionRecord]":
    return [life for _, life in sorted(record.versions.items(), reverse=True)]


def _statuses(versions: "list[VersionRecord]") -> dict[str, Any]:
    return {
        "model_version_status": [
            {
                "version": str(life.version),
                "state": life.state.name,
                "status": {
                    "error_code": life.failure.code if life.failure else "OK",
                    "error_message": life.failure.message if life.failure else "",
                },
            }
            for life in versions
        ]
    }


def _metadata(servable: "Servable") -> dict[str, Any]:
    signature = {
        "inputs": {spec.name: _tensor_info(spec) for spec in servable.inputs},
        "outputs": {spec.name: _tensor_info(spec) for spec in servable.outputs},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    return {
        "model_spec": {"name": servable.name, "signature_name": "", "version": str(servable.version)},
        # Twice: a map named signature_def inside a message of that name.
        "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
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
