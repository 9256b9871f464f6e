"""Finds the ONNX Runtime library inside the installed wheel without importing the package and numpy."""

import importlib.util
from pathlib import Path

_ADVICE = "ONNX Runtime is missing: pip install 'servolley[cpu]' for CPUs, 'servolley[gpu]' for NVIDIA GPUs"


class RuntimeNotFoundError(Exception):
    """No ONNX Runtime library; the text says what to install."""


def find_ort_library(configured: str | None = None) -> str:
    """The path of libonnxruntime.so. Raises RuntimeNotFoundError."""
    if configured is not None:
        if not Path(configured).is_file():
            raise RuntimeNotFoundError(f"{configured}: no such ONNX Runtime library")
        return configured
    try:
        spec = importlib.util.find_spec("onnxruntime")
    except (ImportError, ValueError):
        spec = None
    for directory in (spec.submodule_search_locations or []) if spec is not None else []:
        capi = Path(directory) / "capi"
        # libonnxruntime.so.1.22.0; its providers are called libonnxruntime_providers_*.so.
        libraries = sorted(capi.glob("libonnxruntime.so*"), key=lambda path: len(path.name), reverse=True)
        if libraries:
            return str(libraries[0])
    raise RuntimeNotFoundError(_ADVICE)
