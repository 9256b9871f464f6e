"""tensorflow.serving's PredictionService and ModelService without predict, which never leaves the core."""

from typing import Any, NoReturn

from servolley.front import tfs_answers as tfs
from servolley.front.context import ServerContext
from servolley.front.grpc.messages import Document, Messages
from servolley.front.grpc.methods import Method
from servolley.status import invalid_argument, unimplemented

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"

_SIGNATURES = "signature_def"
_SIGNATURES_TYPE = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


class TfsService:
    """Handlers over one server's context; each takes a request message and answers with a document."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    def methods(self, messages: Messages) -> dict[str, Method]:
        handlers = {
            f"/{PREDICTION_SERVICE}/GetModelMetadata": self.model_metadata,
            f"/{PREDICTION_SERVICE}/Classify": self.no_examples,
            f"/{PREDICTION_SERVICE}/Regress": self.no_examples,
            f"/{PREDICTION_SERVICE}/MultiInference": self.no_examples,
            f"/{MODEL_SERVICE}/GetModelStatus": self.model_status,
            f"/{MODEL_SERVICE}/HandleReloadConfigRequest": self.no_reload,
        }
        return {target: messages.unary(target, handler) for target, handler in handlers.items()}

    def model_metadata(self, request: Any) -> Document:
        which = _which(request)
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for wanted in request.metadata_field:
            if wanted != _SIGNATURES:
                raise invalid_argument(f"Metadata field {wanted} is not supported")
        document = tfs.metadata(tfs.servable_of(self._context, which))
        signatures = {"@type": _SIGNATURES_TYPE, **document["metadata"][_SIGNATURES]}
        return document | {"metadata": {_SIGNATURES: signatures}}

    def model_status(self, request: Any) -> Document:
        return tfs.statuses(tfs.versions_of(self._context, _which(request)))

    def no_examples(self, _: Any) -> NoReturn:
        raise tfs.no_examples()

    def no_reload(self, _: Any) -> NoReturn:
        raise unimplemented("this server does not support changes of its configuration")


def _which(request: Any) -> tfs.Which:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    spec = request.model_spec
    if not spec.name:
        raise invalid_argument("ModelSpec has no model name")
    choice = spec.WhichOneof("version_choice")
    return tfs.Which(
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )
