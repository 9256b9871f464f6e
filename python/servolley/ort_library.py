"""Finds the ONNX Runtime library, and what its CUDA providers need, inside the installed wheels without
importing the packages and numpy."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

_ADVICE = "ONNX Runtime is missing: pip install 'servolley[cpu]' for CPUs, 'servolley[gpu]' for NVIDIA GPUs"


# What the CUDA and TensorRT providers are linked with or open by name.
_CUDA_LIBRARY = re.compile(
    r"lib(cudart|nvrtc|nvJitLink|cublas|cublasLt|curand|cufft|cudnn\w*|nvinfer\w*|nvonnxparser)\.so\.\d+"
)


class RuntimeNotFoundError(Exception):
    """No ONNX Runtime library; the text says what to install."""


def find_ort_library(configured: str | None = None) -> str:
    """The path of libonnxruntime.so. Raises RuntimeNotFoundError."""
    if configured is not None:
        if not Path(configured).is_file():
            raise RuntimeNotFoundError(f"{configured}: no such ONNX Runtime library")
        return configured
    for directory in _directories("onnxruntime"):
        capi = directory / "capi"
        # libonnxruntime.so.1.22.0; its providers are called libonnxruntime_providers_*.so.
        libraries = sorted(capi.glob("libonnxruntime.so*"), key=lambda path: len(path.name), reverse=True)
        if libraries:
            return str(libraries[0])
    raise RuntimeNotFoundError(_ADVICE)


def knows_gpus(library: str) -> bool:
    """Whether the runtime at that path has a CUDA provider beside it, as the one for GPUs does."""
    return Path(library).with_name("libonnxruntime_providers_cuda.so").is_file()


def find_cuda_libraries() -> list[str]:
    """The paths of CUDA's, cuDNN's and TensorRT's libraries in the installed nvidia-* and tensorrt packages,
    where no loader looks for them. Empty on machines without these packages."""
    found = [path for directory in _directories("nvidia") for path in directory.glob("*/lib/lib*.so.*")]
    found += [path for directory in _directories("tensorrt_libs") for path in directory.glob("lib*.so.*")]
    return sorted(str(path) for path in found if _CUDA_LIBRARY.fullmatch(path.name))


def _directories(package: str) -> Iterator[Path]:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return
    for directory in (spec.submodule_search_locations or []) if spec is not None else []:
        yield Path(directory)
