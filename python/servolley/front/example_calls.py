"""Classify, Regress and MultiInference, whichever way they came: examples in, the model's answer out. The
tensors are run by the core, in the batches of everybody."""

import asyncio
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from servolley.front import examples, examples_json
from servolley.front import tfs_answers as tfs
from servolley.front.signatures import Method, Plan, plan
from servolley.status import Code, StatusError, invalid_argument, unimplemented

if TYPE_CHECKING:
    from servolley._core import Lease, Servable
    from servolley.config.model import ModelConfig
    from servolley.front.context import ServerContext
    from servolley.front.grpc.messages import Messages
    from servolley.front.inner import InnerCalls

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"

# An example without features takes two bytes and becomes an object of a hundred.
_LARGEST_BODY_BYTES = 4 << 20
# What takes longer than this to read is read beside the loop.
_QUICK_BYTES = 32 << 10
_TASKS_MAX = 64

T = TypeVar("T")


class ExampleCalls:
    """Over one server's context. ``rest_timeout_us``: what a REST call may take, 0 = any time."""

    def __init__(
        self, context: "ServerContext", load_messages: "Callable[[], Messages]", rest_timeout_us: int = 0
    ) -> None:
        self._context = context
        self._load_messages = load_messages
        self._rest_timeout_us = rest_timeout_us
        self._messages: Messages | None = None
        # Beside the configuration that they follow from: its signatures change while the servable stays.
        self._plans: WeakKeyDictionary[Servable, tuple[ModelConfig, dict[tuple[str, Method], Plan]]]
        self._plans = WeakKeyDictionary()

    async def rest(self, which: tfs.Which, method: Method, body: bytes, encoding: str = "") -> bytes:
        """The JSON answer to a JSON request. ``encoding``: the Content-Encoding. Raises StatusError."""

        def read() -> tuple[str, Any]:
            given = self._new("Input")
            return examples_json.read(_inflated(body, encoding), given), given

        slow = len(body) > _QUICK_BYTES or bool(encoding)
        _check_size(len(body))
        signature, given = await self._off_loop_if(slow, read)
        result = self._new("ClassificationResult" if method is Method.CLASSIFY else "RegressionResult")
        with self._choose(which, rest=True) as lease:
            steps = [self._plan(lease.servable, signature, method)]
            await self._run(lease, steps, given, [result], given.ByteSize(), self._rest_timeout_us)
        if method is Method.CLASSIFY:
            return examples_json.render_classification(result)
        return examples_json.render_regression(result)

    async def classify(self, body: bytes) -> bytes:
        """A ClassificationResponse to a ClassificationRequest. Raises StatusError."""
        return await self._one(body, Method.CLASSIFY, "Classification")

    async def regress(self, body: bytes) -> bytes:
        return await self._one(body, Method.REGRESS, "Regression")

    async def _one(self, body: bytes, method: Method, name: str) -> bytes:
        request = await self._parse(body, f"{name}Request")
        response = self._new(f"{name}Response")
        signature = request.model_spec.signature_name
        with self._choose(tfs.which_of(request)) as lease:
            steps = [self._plan(lease.servable, signature, method)]
            _echo(response.model_spec, lease.servable, signature)
            await self._run(lease, steps, request.input, [response.result], len(body))
        return bytes(response.SerializeToString())

    async def multi(self, body: bytes) -> bytes:
        """A MultiInferenceResponse to a MultiInferenceRequest. Raises StatusError."""
        request = await self._parse(body, "MultiInferenceRequest")
        tasks = request.tasks
        if not 0 < len(tasks) <= _TASKS_MAX:
            raise invalid_argument(f"a MultiInferenceRequest has 1 to {_TASKS_MAX} tasks, not {len(tasks)}")
        which = [tfs.which_of(task) for task in tasks]
        if any(each.name != which[0].name for each in which):
            raise invalid_argument(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        response = self._new("MultiInferenceResponse")
        with self._choose(which[0]) as lease:
            servable = lease.servable
            steps = [
                self._plan(servable, task.model_spec.signature_name, _method_of(task.method_name))
                for task in tasks
            ]
            seen = set()
            for step in steps:
                if step.signature in seen:
                    raise invalid_argument(f"Duplicate evaluation of signature: {step.signature}")
                seen.add(step.signature)
            results = []
            for task, step in zip(tasks, steps, strict=True):
                entry = response.results.add()
                _echo(entry.model_spec, servable, task.model_spec.signature_name)
                classify = step.method is Method.CLASSIFY
                result = entry.classification_result if classify else entry.regression_result
                result.SetInParent()
                results.append(result)
            await self._run(lease, steps, request.input, results, len(body))
        return bytes(response.SerializeToString())

    # --- the way through the model ---

    def _choose(self, which: tfs.Which, *, rest: bool = False) -> "Lease":
        """The version that answers a call, to be kept for all of it: most of its work is done beside the loop
        or between runs, and the routes may change meanwhile. Raises StatusError."""
        return self._inner().choose(which.name, which.version, which.label, rest=rest)

    def _inner(self) -> "InnerCalls":
        if self._context.inner is None:
            raise StatusError(Code.UNAVAILABLE, "Server exiting")
        return self._context.inner

    async def _run(
        self,
        lease: "Lease",
        steps: Sequence[Plan],
        given: Any,
        results: Sequence[Any],
        bytes_in: int,
        timeout_us: int = 0,
    ) -> None:
        """Fills ``results``, one per step. Steps that read the same features are one run of the model.
        ``timeout_us``: of each run, 0 = none."""
        runs: dict[Any, list[int]] = {}
        for number, step in enumerate(steps):
            runs.setdefault(step.sources, []).append(number)
        for sources, numbers in runs.items():
            outputs = sorted({name for number in numbers for name in steps[number].outputs})

            def build(sources: Any = sources, outputs: Any = outputs) -> tuple[bytes, int]:
                rows = examples.features_of(given)
                request = self._new("PredictRequest")
                request.output_filter.extend(outputs)
                examples.fill(request, sources, rows)
                return request.SerializeToString(), len(rows)

            message, rows = await self._off_loop_if(bytes_in > _QUICK_BYTES, build)
            answer = await self._inner().predict(message, lease, timeout_us=timeout_us)

            def take(
                answer: bytes = answer, rows: int = rows, numbers: Sequence[int] = tuple(numbers)
            ) -> None:
                response = self._new("PredictResponse")
                response.ParseFromString(answer)
                tensors = dict(response.outputs)
                for number in numbers:
                    step = steps[number]
                    classify = step.method is Method.CLASSIFY
                    write = examples.classifications if classify else examples.regressions
                    write(results[number], step, tensors, rows)

            await self._off_loop_if(len(answer) > _QUICK_BYTES, take)

    def _plan(self, servable: "Servable", signature: str, method: Method) -> Plan:
        config = self._context.model(servable.name).found.config
        known, plans = self._plans.get(servable, (None, {}))
        if known is not config:
            plans = {}
            self._plans[servable] = (config, plans)
        found = plans.get((signature, method))
        if found is None:
            # A name that is none raises, so there are never more of them than the model has.
            found = plans[signature, method] = plan(servable, config, signature, method)
        return found

    # --- messages ---

    def _new(self, name: str) -> Any:
        if self._messages is None:
            self._messages = self._load_messages()
        return self._messages.message(f"tensorflow.serving.{name}")()

    async def _parse(self, body: bytes, name: str) -> Any:
        def read() -> Any:
            request = self._new(name)
            try:
                request.ParseFromString(body)
            except Exception as error:  # DecodeError, whose module is not imported before it is needed
                if type(error).__name__ != "DecodeError":
                    raise
                raise invalid_argument(f"failed to parse the request: not a {name} message") from None
            return request

        _check_size(len(body))
        return await self._off_loop_if(len(body) > _QUICK_BYTES, read)

    async def _off_loop_if(self, slow: bool, work: Callable[[], T]) -> T:
        if not slow:
            return work()
        return await asyncio.get_running_loop().run_in_executor(None, work)


def _check_size(size: int) -> None:
    if size > _LARGEST_BODY_BYTES:
        raise StatusError(Code.TOO_LARGE, f"a call with examples may have {_LARGEST_BODY_BYTES} bytes")


def _inflated(body: bytes, encoding: str) -> bytes:
    """Of a body in gzip or zlib form, one byte beyond the limit is not produced."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise StatusError(Code.UNSUPPORTED_MEDIA, "the body's Content-Encoding must be gzip or deflate")
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # whichever of the two it is
    try:
        text = inflater.decompress(body, _LARGEST_BODY_BYTES + 1)
    except zlib.error:
        raise invalid_argument(f"the body is not {encoding}") from None
    _check_size(len(text))
    if not inflater.eof or inflater.unused_data:
        raise invalid_argument(f"the body is not one whole {encoding} stream")
    return text


def _method_of(full_name: str) -> Method:
    for method in Method:
        if method.full_name == full_name:
            return method
    raise unimplemented(f"Unsupported signature method_name: {full_name[:100]}")


def _echo(spec: Any, servable: "Servable", signature: str) -> None:
    spec.name = servable.name
    spec.version.value = servable.version
    spec.signature_name = signature
