"""Rows of named features (tensorflow.Example) as the tensors of a predict request, and its answer as classes
or regressions. Messages are protobuf's objects of our own pool; nothing here waits or looks at a model."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from servolley.status import Code, StatusError, invalid_argument

if TYPE_CHECKING:
    from servolley.front.signatures import Plan, Source

# What one call's examples may become, whatever defaults they are filled up with.
_MOST_VALUES = 1 << 24

# tf_dtype -> (field of TensorProto, kind of feature). Half floats have none: examples know no such numbers.
_FIELDS = {
    "DT_FLOAT": ("float_val", "float_list"),
    "DT_DOUBLE": ("double_val", "float_list"),
    "DT_INT8": ("int_val", "int64_list"),
    "DT_INT16": ("int_val", "int64_list"),
    "DT_INT32": ("int_val", "int64_list"),
    "DT_INT64": ("int64_val", "int64_list"),
    "DT_UINT8": ("int_val", "int64_list"),
    "DT_UINT16": ("int_val", "int64_list"),
    "DT_UINT32": ("uint32_val", "int64_list"),
    "DT_UINT64": ("uint64_val", "int64_list"),
    "DT_BOOL": ("bool_val", "int64_list"),
    "DT_STRING": ("string_val", "bytes_list"),
}
_KIND_NAMES = {"float_list": "float", "int64_list": "int64", "bytes_list": "string"}

Features = Mapping[str, Any]


def features_of(given: Any) -> list[tuple[Features, Features]]:
    """The features of every example of a tensorflow.serving.Input, each with those of the common context."""
    kind = given.WhichOneof("kind")
    if kind is None or not getattr(given, kind).examples:
        raise invalid_argument("Input is empty.")
    rows = getattr(given, kind)
    context = rows.context.features.feature if kind == "example_list_with_context" else {}
    return [(example.features.feature, context) for example in rows.examples]


def fill(request: Any, sources: "Sequence[Source]", rows: Sequence[tuple[Features, Features]]) -> None:
    """Puts one tensor per input into a tensorflow.serving.PredictRequest. Raises StatusError."""
    left = _MOST_VALUES
    for source in sources:
        values, each = _gather(source, rows, left)
        left -= len(values)
        tensor = request.inputs[source.input]
        tensor.dtype = source.tf_dtype
        for size in _shape(source, len(rows), each):
            tensor.tensor_shape.dim.add().size = size
        field, _ = _FIELDS[source.tf_dtype]
        try:
            getattr(tensor, field).extend(values)
        except ValueError:
            raise _bad(source, f"a value does not fit {source.tf_dtype}") from None


def _gather(source: "Source", rows: Sequence[tuple[Features, Features]], most: int) -> tuple[list[Any], int]:
    """The values of all rows, and how many each has."""
    if source.tf_dtype not in _FIELDS:
        raise invalid_argument(f"input '{source.input}' is {source.tf_dtype}, which no feature can fill")
    _, kind = _FIELDS[source.tf_dtype]
    convert = _converter(source, kind)
    default = _default(source, kind)
    name = source.feature
    values: list[Any] = []
    each = -1
    for number, (features, context) in enumerate(rows):
        feature = features.get(name) or context.get(name)
        found: str = "" if feature is None else feature.WhichOneof("kind") or ""
        # A feature without values is one that is missing.
        row = getattr(feature, found).value if found else ()
        if row:
            row = convert(found, row)
        elif default is not None:
            row = default
        else:
            raise _bad(source, f"it is required, and example {number} has no value of it")
        if each not in (-1, len(row)):
            raise _bad(source, f"example {number} has {len(row)} values, those before it have {each}")
        each = len(row)
        if len(values) + each > most:
            raise StatusError(Code.TOO_LARGE, f"the examples take more than {_MOST_VALUES} values together")
        values.extend(row)
    return values, each


def _converter(source: "Source", kind: str) -> Callable[[str, Any], Any]:
    def convert(found: str, row: Any) -> Any:
        if found != kind:
            # A whole number in JSON is an integer, whatever was meant.
            if (found, kind) == ("int64_list", "float_list"):
                return list(map(float, row))
            raise _bad(
                source,
                f"data types don't match. Expected type: {_KIND_NAMES[kind]}, "
                f"data type: {_KIND_NAMES[found]}",
            )
        if source.tf_dtype == "DT_BOOL" and any(value not in (0, 1) for value in row):
            raise _bad(source, "a value does not fit DT_BOOL")
        return row

    return convert


def _default(source: "Source", kind: str) -> Sequence[Any] | None:
    if source.default is None:
        return None
    try:
        return [_DEFAULTS[kind](value) for value in source.default]
    except TypeError:
        raise StatusError(
            Code.FAILED_PRECONDITION,
            f"[signatures] of the model: the default of feature '{source.feature}' is no {_KIND_NAMES[kind]}",
        ) from None


def _float_default(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def _int_default(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError
    return int(value)


def _bytes_default(value: object) -> bytes:
    if not isinstance(value, str):
        raise TypeError
    return value.encode()


_DEFAULTS: dict[str, Callable[[object], Any]] = {
    "float_list": _float_default,
    "int64_list": _int_default,
    "bytes_list": _bytes_default,
}


def _shape(source: "Source", rows: int, each: int) -> list[int]:
    """The tensor's: the examples, then the declared dimensions, of which one may be free."""
    if source.shape is None:
        return [rows, each]
    if not source.shape:
        if rows * each != 1:
            raise _bad(source, f"input '{source.input}' takes one value in all, not {rows * each}")
        return []
    inner = list(source.shape[1:])
    fixed = math.prod(size for size in inner if size != -1)
    free = inner.count(-1)
    if free == 1 and fixed > 0 and each % fixed == 0:
        inner[inner.index(-1)] = each // fixed
    elif free > 1 and each == fixed == 1:
        inner = [1] * len(inner)
    elif free > 0 or each != fixed:
        raise _bad(source, f"{each} values do not make a row of shape {inner}")
    return [rows, *inner]


def _bad(source: "Source", what: str) -> StatusError:
    return invalid_argument(f"Feature: {source.feature}: {what}")


def classifications(result: Any, plan: "Plan", outputs: Mapping[str, Any], rows: int) -> None:
    """Fills a tensorflow.serving.ClassificationResult from the outputs of a predict response."""
    scores = _rows_of(outputs[plan.values], plan.values, rows) if plan.values is not None else None
    classes = _rows_of(outputs[plan.classes], plan.classes, rows) if plan.classes is not None else None
    for number in range(rows):
        entry = result.classifications.add()
        row_scores = scores[number] if scores is not None else None
        row_classes = classes[number] if classes is not None else None
        count = len(row_scores if row_scores is not None else row_classes or ())
        if row_scores is not None and row_classes is not None and len(row_classes) != count:
            raise _bad_output(f"{plan.classes} and {plan.values} differ in their number of classes")
        for i in range(count):
            one = entry.classes.add()
            if row_classes is not None:
                one.label = _text(row_classes[i])
            elif i < len(plan.labels):
                one.label = plan.labels[i]
            if row_scores is not None:
                one.score = row_scores[i]


def regressions(result: Any, plan: "Plan", outputs: Mapping[str, Any], rows: int) -> None:
    """Fills a tensorflow.serving.RegressionResult."""
    assert plan.values is not None
    for row in _rows_of(outputs[plan.values], plan.values, rows):
        if len(row) != 1:
            raise _bad_output(f"{plan.values} has {len(row)} values per example, a regression has one")
        result.regressions.add().value = row[0]


def _rows_of(tensor: Any, name: str, rows: int) -> list[Sequence[Any]]:
    """A [rows] or [rows, k] tensor as rows."""
    dims = [dim.size for dim in tensor.tensor_shape.dim]
    if len(dims) not in (1, 2) or dims[0] != rows:
        raise _bad_output(f"{name} has shape {dims} for {rows} examples, not [{rows}] or [{rows}, classes]")
    each = dims[1] if len(dims) == 2 else 1
    for field in (
        "float_val",
        "double_val",
        "string_val",
        "int64_val",
        "int_val",
        "uint32_val",
        "uint64_val",
    ):
        values = list(getattr(tensor, field))
        if values:
            return [values[at : at + each] for at in range(0, rows * each, each)]
    if each == 0:
        return [()] * rows
    raise _bad_output(f"{name} is of a type that classify and regress do not know")


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _bad_output(what: str) -> StatusError:
    return invalid_argument(f"the model's outputs are not those of its signature: {what}")
