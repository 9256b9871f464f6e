"""The JSON of TensorFlow Serving's REST classify and regress calls, from and to the messages of gRPC's."""

import base64
import binascii
import json
import math
import struct
from collections.abc import Callable
from typing import Any

from servolley.status import invalid_argument


def read(body: bytes, given: Any) -> str:
    """Fills a tensorflow.serving.Input; returns the signature's name. Raises StatusError."""
    try:
        # The standard parser takes NaN and Infinity, as these clients write them.
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        text = "nested too deeply" if isinstance(error, RecursionError) else "it is not valid JSON"
        raise invalid_argument(f"failed to parse the request JSON: {text}") from None
    if not isinstance(document, dict):
        raise invalid_argument("the request must be a JSON object")
    signature = document.get("signature_name", "")
    if not isinstance(signature, str):
        raise invalid_argument("'signature_name' must be a string")
    rows = given.example_list
    if "context" in document:
        rows = given.example_list_with_context
        _read_example(document["context"], rows.context)
    examples = document.get("examples")
    if not isinstance(examples, list) or not examples:
        raise invalid_argument("'examples' must be an array with at least one example")
    for example in examples:
        _read_example(example, rows.examples.add())
    return _utf8(signature)


def _read_example(value: Any, example: Any) -> None:
    if not isinstance(value, dict):
        raise invalid_argument("Example must be JSON object")
    example.SetInParent()
    for name, feature in value.items():
        _read_feature(_utf8(name), feature, example.features.feature[_utf8(name)])


def _read_feature(name: str, value: Any, feature: Any) -> None:
    elements = value if isinstance(value, list) else [value]
    kinds = set()
    values: list[Any] = []
    for element in elements:
        kind, plain = _scalar(name, element)
        kinds.add(kind)
        values.append(plain)
    if len(kinds) > 1:
        raise invalid_argument(f"feature '{name[:100]}' mixes values of several kinds")
    for kind in kinds:
        try:
            getattr(feature, kind).value.extend(values)
        except (ValueError, OverflowError):
            raise invalid_argument(f"feature '{name[:100]}': an integer does not fit 64 bits") from None


def _scalar(name: str, element: Any) -> tuple[str, Any]:
    if isinstance(element, str):
        return "bytes_list", _utf8(element).encode()
    if isinstance(element, bool | int):
        return "int64_list", int(element)
    if isinstance(element, float):
        return "float_list", _as_float32(element)
    if isinstance(element, dict) and element.keys() == {"b64"} and isinstance(element["b64"], str):
        try:
            return "bytes_list", base64.b64decode(element["b64"], validate=True)
        except (binascii.Error, ValueError):
            raise invalid_argument(f"feature '{name[:100]}': the b64 text is not base64") from None
    kind = "Null" if element is None else "Array" if isinstance(element, list) else "Object"
    raise invalid_argument(f"feature '{name[:100]}': unexpected JSON type {kind}")


def _as_float32(value: float) -> float:
    """Beyond the type's range lies infinity, as in a predict call."""
    try:
        struct.pack("<f", value)
    except OverflowError:
        return math.copysign(math.inf, value)
    return value


def _utf8(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise invalid_argument("a string has a lone surrogate") from None
    return text


def render_classification(result: Any) -> bytes:
    return _render(
        result.classifications,
        lambda row: "[" + ", ".join(f"[{json.dumps(c.label)}, {number(c.score)}]" for c in row.classes) + "]",
    )


def render_regression(result: Any) -> bytes:
    return _render(result.regressions, lambda row: number(row.value))


def _render(rows: Any, render: Callable[[Any], str]) -> bytes:
    if not rows:
        raise invalid_argument("the result is empty")
    lines = ",\n    ".join(render(row) for row in rows)
    return f'{{\n    "results": [{lines}\n    ]\n}}'.encode()


def number(value: float) -> str:
    """A float32 as TensorFlow Serving prints it: 6 digits where these are exact, else 9."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    text = f"{value:.6g}"
    if _rounded(float(text)) != _rounded(value):
        text = f"{value:.9g}"
    return text if "." in text or "e" in text else text + ".0"


def _rounded(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return b""
