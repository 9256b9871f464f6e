"""tensorflow.serving's PredictionService and ModelService without predict, which never leaves the core."""

from collections.abc import Awaitable, Callable
from typing import Any

from servolley.front import tfs_answers as tfs
from servolley.front.context import ServerContext
from servolley.front.gate import Access
from servolley.front.grpc.messages import Document, Messages
from servolley.front.grpc.methods import Method, Unary
from servolley.status import Code, StatusError, invalid_argument

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"

_SIGNATURES = "signature_def"
_SIGNATURES_TYPE = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


class TfsService:
    """Handlers over one server's context; each takes a request message and answers with a document."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    def methods(self, messages: Messages) -> dict[str, Method]:
        handlers: dict[str, Callable[[Any], Document | Awaitable[Document]]] = {
            f"/{PREDICTION_SERVICE}/GetModelMetadata": self.model_metadata,
            f"/{MODEL_SERVICE}/GetModelStatus": self.model_status,
        }
        changes = {f"/{MODEL_SERVICE}/HandleReloadConfigRequest": self.reload}
        calls = self._context.examples
        on_examples = (
            {}
            if calls is None
            else {
                f"/{PREDICTION_SERVICE}/Classify": calls.classify,
                f"/{PREDICTION_SERVICE}/Regress": calls.regress,
                f"/{PREDICTION_SERVICE}/MultiInference": calls.multi,
            }
        )
        return {
            **{target: messages.unary(target, handler) for target, handler in handlers.items()},
            **{target: messages.unary(target, handler, Access.ADMIN) for target, handler in changes.items()},
            # They read their messages themselves: these may be too large for the loop.
            **{target: Unary(lambda body: body, handler) for target, handler in on_examples.items()},
        }

    def model_metadata(self, request: Any) -> Document:
        which = tfs.which_of(request)
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for wanted in request.metadata_field:
            if wanted != _SIGNATURES:
                raise invalid_argument(f"Metadata field {wanted} is not supported")
        document = tfs.metadata_of(self._context, which)
        signatures = {"@type": _SIGNATURES_TYPE, **document["metadata"][_SIGNATURES]}
        return document | {"metadata": {_SIGNATURES: signatures}}

    def model_status(self, request: Any) -> Document:
        return tfs.statuses(tfs.versions_of(self._context, tfs.which_of(request)))

    async def reload(self, request: Any) -> Document:
        """What metrics a client asks for are those of TensorFlow; there are none here to report."""
        control = self._context.reload
        if control is None:
            raise StatusError(
                Code.FAILED_PRECONDITION, "the repository API decides what is loaded (explicit control mode)"
            )
        await control.reload(request.config)
        return {"status": {"error_code": "OK"}}
