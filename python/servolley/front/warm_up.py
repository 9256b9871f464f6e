"""What is run of a version before it becomes available: requests that its configuration declares, and those
that lie beside it as TensorFlow Serving has them. Blocking: on the threads that load."""

import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servolley.config.warm_up import WarmupInput
from servolley.front import examples
from servolley.front.signatures import Method, plan
from servolley.status import StatusError, core_failure, invalid_argument, unimplemented

if TYPE_CHECKING:
    from servolley._core import Engine, Servable
    from servolley.config.model import ModelConfig
    from servolley.config.warm_up import WarmupRequest
    from servolley.front.grpc.messages import Messages
    from servolley.repository.layout import ModelOnDisk
    from servolley.repository.records import VersionRecord

RECORDED = Path("assets.extra", "tf_serving_warmup_requests")

#: Of one file, as TensorFlow Serving has it.
MOST_RECORDS = 1000
_LARGEST_RECORD_BYTES = 256 << 20

_log = logging.getLogger(__name__)

Request = tuple[str, bytes, int]
"""What it is called, a serialized PredictRequest, how often it is run."""


class WarmUp:
    """``iterations``: how often each recorded request is run."""

    def __init__(
        self,
        engine: "Engine",
        load_messages: "Callable[[], Messages]",
        iterations: int = 1,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._load_messages = load_messages
        self._iterations = iterations
        self._now = now

    def __call__(self, found: "ModelOnDisk", life: "VersionRecord", servable: "Servable") -> None:
        """Raises StatusError: a request is none, or has failed."""
        from servolley._core import CoreError

        start = self._now()
        limit_s = found.config.warmup.max_time_s
        fields: dict[str, object] = {"model": servable.name, "version": servable.version}
        done = 0
        requests = self._requests(found, life, servable)
        while True:
            what = ""
            try:
                if self._now() - start > limit_s:
                    _log.warning("the warm-up was ended: it takes too long", extra={"fields": fields})
                    break
                following = next(requests, None)
                if following is None:
                    break
                what, request, runs = following
                self._engine.warm_up(servable, request, runs)
            except CoreError as error:
                failure = core_failure(error)
                raise StatusError(failure.code, f"warm-up: {what}: {failure.message}") from error
            except StatusError as error:
                raise StatusError(error.code, f"warm-up: {error.message}") from error
            done += 1
        if done:
            took_ms = int((self._now() - start) * 1000)
            _log.info("warmed up", extra={"fields": fields | {"requests": done, "ms": took_ms}})

    def _requests(
        self, found: "ModelOnDisk", life: "VersionRecord", servable: "Servable"
    ) -> Iterator[Request]:
        for number, declared in enumerate(found.config.warmup.requests):
            name = f"request '{declared.name}'" if declared.name else f"request {number}"
            yield name, self._declared(name, declared, servable, found.directory), declared.count
        folder = _version_folder(found, life)
        if folder is not None:
            yield from self._recorded(folder / RECORDED, found.config, servable)

    # --- declared ---

    def _declared(
        self, name: str, declared: "WarmupRequest", servable: "Servable", directory: Path | None
    ) -> bytes:
        from servolley.front.warm_up_tensors import fill_tensor  # only who declares requests pays for it

        specs = {spec.name: spec for spec in servable.inputs}
        for unknown in declared.inputs.keys() - specs.keys():
            raise invalid_argument(f"{name}: the model has no input '{unknown}'")
        rows = declared.batch_size if servable.max_batch_size > 0 else None
        if declared.batch_size > max(1, servable.max_batch_size):
            raise invalid_argument(
                f"{name}: batch_size {declared.batch_size}, the model takes {max(1, servable.max_batch_size)}"
            )
        request = self._new_request(servable)
        types = type(request).DESCRIPTOR.file.pool.FindEnumTypeByName("tensorflow.DataType").values_by_name
        for spec in servable.inputs:
            tensor = request.inputs[spec.name]
            tensor.dtype = types[spec.tf_dtype].number
            try:
                fill_tensor(tensor, spec, declared.inputs.get(spec.name, WarmupInput()), rows, directory)
            except StatusError as error:
                raise StatusError(error.code, f"{name}: {error.message}") from error
        return bytes(request.SerializeToString())

    # --- recorded ---

    def _recorded(self, path: Path, config: "ModelConfig", servable: "Servable") -> Iterator[Request]:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return
        except OSError as error:
            raise invalid_argument(f"{RECORDED}: {error.strerror}") from error
        from servolley.front.tf_records import records

        with file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise invalid_argument(f"{RECORDED} is no file")
            for number, content in enumerate(records(file, status.st_size, _LARGEST_RECORD_BYTES)):
                if number >= MOST_RECORDS:
                    raise invalid_argument(f"{RECORDED} has more than {MOST_RECORDS} records")
                name = f"record {number} of {RECORDED}"
                try:
                    for request in self._of_record(content, config, servable):
                        yield name, request, self._iterations
                except StatusError as error:
                    raise StatusError(error.code, f"{name}: {error.message}") from error

    def _of_record(self, content: bytes, config: "ModelConfig", servable: "Servable") -> Iterator[bytes]:
        record: Any = self._load_messages().message("tensorflow.serving.PredictionLog")()
        try:
            record.ParseFromString(content)
        except Exception as error:  # DecodeError, whose module is not imported before it is needed
            if type(error).__name__ != "DecodeError":
                raise
            raise invalid_argument("it is no PredictionLog") from None
        kind = record.WhichOneof("log_type")
        if kind == "predict_log":
            yield record.predict_log.request.SerializeToString()
        elif kind == "classify_log":
            yield self._on_examples(record.classify_log.request, Method.CLASSIFY, config, servable)
        elif kind == "regress_log":
            yield self._on_examples(record.regress_log.request, Method.REGRESS, config, servable)
        elif kind == "multi_inference_log":
            given = record.multi_inference_log.request
            for task in given.tasks:
                method = next((each for each in Method if each.full_name == task.method_name), None)
                if method is None:
                    raise unimplemented(f"Unsupported signature method_name: {task.method_name[:100]}")
                task_input = given.input
                yield self._filled(task.model_spec.signature_name, method, task_input, config, servable)
        else:
            raise unimplemented(f"Unsupported log_type for warmup: {kind or 'none'}")

    def _on_examples(self, given: Any, method: Method, config: "ModelConfig", servable: "Servable") -> bytes:
        return self._filled(given.model_spec.signature_name, method, given.input, config, servable)

    def _filled(
        self, signature: str, method: Method, given: Any, config: "ModelConfig", servable: "Servable"
    ) -> bytes:
        steps = plan(servable, config, signature, method)
        request = self._new_request(servable)
        examples.fill(request, steps.sources, examples.features_of(given))
        return bytes(request.SerializeToString())

    def _new_request(self, servable: "Servable") -> Any:
        request: Any = self._load_messages().message("tensorflow.serving.PredictRequest")()
        request.model_spec.name = servable.name
        return request


def _version_folder(found: "ModelOnDisk", life: "VersionRecord") -> Path | None:
    """Of model.onnx, or of a folder model.onnx/ around it. A single model file has none."""
    if found.directory is None:
        return None
    return next((parent for parent in life.path.parents if parent.parent == found.directory), None)
