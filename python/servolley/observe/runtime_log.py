"""What ONNX Runtime has to say, as log lines of ours: raw lines on standard error would break their form."""

import logging
from collections.abc import Iterable

_LEVELS = {2: logging.WARNING, 3: logging.ERROR, 4: logging.CRITICAL}

_log = logging.getLogger("onnxruntime")


def log_runtime_lines(lines: Iterable[tuple[int, str]]) -> None:
    """``lines``: (severity, text), as Engine.take_runtime_log() returns them."""
    for severity, text in lines:
        _log.log(_LEVELS.get(severity, logging.INFO), "%s", text)
