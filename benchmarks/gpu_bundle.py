"""What `./dev gpu` needs on a machine with a GPU that reaches no network, has no compiler and takes only
small copies: wheels for the Python that runs this, and ONNX Runtime for GPUs in parts.

    ./dev gpu-bundle [DIR] [--arch 90] [--part-mib 56]

The other machine has the same kind of processor, a C library no older than this one's, that version of
Python with pip, the driver, and what is too large to copy: CUDA and cuDNN (as nvidia-* packages), numpy,
onnx and ml_dtypes.
`benchmarks/gpu_unbundle.py` puts it together there.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import lzma
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

_ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))

from benchmarks import fatbin  # noqa: E402
from benchmarks.gpu_unbundle import PARTS, SUMS, WHEELS, digest  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_MIB: Final = 1 << 20
_DOWNLOADS: Final = _ROOT / "build" / "gpu-bundle" / "downloads"
#: What the tests on a GPU and the benchmark import; pip adds what these need, in versions that go together.
#: protobuf and grpcio must suit the classes that tritonclient brings; pyproject.toml says why not protobuf 7.
_NEEDED: Final = [
    "grpcio>=1.71",
    "protobuf>=6.33.5,<7",
    "pytest>=8.3",
    "pytest-asyncio>=1.0",
    "pytest-timeout>=2.3",
    "tritonclient[grpc,http]>=2.53",
]
#: Expected there; what generated code depends on is not among them.
_LARGE: Final = ("numpy", "onnx", "ml_dtypes")
_LEFT_OUT: Final = "libonnxruntime_providers_tensorrt.so"
_CUDA_PROVIDER: Final = "libonnxruntime_providers_cuda.so"


def slimmed(wheel: Path, archs: Collection[int]) -> bytes:
    """The wheel without TensorRT's provider and, if any are given, with GPU code for these architectures
    only. Nothing in it is compressed: what is packed as a whole is packed better."""
    target = io.BytesIO()
    records = []
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as slim:
        record = next(name for name in source.namelist() if name.endswith(".dist-info/RECORD"))
        for entry in source.infolist():
            leaf = entry.filename.rsplit("/", 1)[-1]
            if leaf == _LEFT_OUT or entry.filename == record:
                continue
            content = bytearray(source.read(entry))
            if leaf == _CUDA_PROVIDER and archs:
                had = fatbin.keep_in_library(content, archs)
                found = ", ".join(f"sm_{arch} {size / _MIB:.0f} MiB" for arch, size in sorted(had.items()))
                _say(f"GPU code: {found}; kept: {', '.join(f'sm_{arch}' for arch in archs)}")
            entry.compress_type = zipfile.ZIP_STORED
            slim.writestr(entry, content)
            hashed = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            records.append(f"{entry.filename},sha256={hashed},{len(content)}\n")
        slim.writestr(record, "".join([*records, f"{record},,\n"]))
    return target.getvalue()


def split(content: bytes, folder: Path, part_bytes: int) -> list[Path]:
    """The content in files of at most that size, named in their order; whatever was split before goes."""
    for old in folder.glob(PARTS):
        old.unlink()
    parts = []
    for number, begin in enumerate(range(0, len(content), part_bytes)):
        parts.append(folder / PARTS.replace("*", f"{number:02}"))
        parts[-1].write_bytes(content[begin : begin + part_bytes])
    return parts


def _download(*requirements: str) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:"]
    subprocess.run([*pip, *requirements], check=True)


def _runtime(folder: Path, archs: Sequence[int], part_bytes: int) -> list[Path]:
    """ONNX Runtime's parts; not made again if they are those that were wanted."""
    _download("--no-deps", "-d", str(_DOWNLOADS), "onnxruntime-gpu")
    wheel = max(_DOWNLOADS.glob("onnxruntime_gpu-*.whl"), key=lambda path: path.stat().st_mtime)
    made_of = f"{wheel.name} {sorted(archs)} {part_bytes}\n"
    stamp = folder / "made-of"
    parts = sorted(folder.glob(PARTS))
    if not (stamp.exists() and stamp.read_text() == made_of and parts):
        _say(f"packing {wheel.name}")
        stamp.unlink(missing_ok=True)
        parts = split(lzma.compress(slimmed(wheel, archs), preset=6), folder, part_bytes)
        stamp.write_text(made_of)
    return parts


def _wheels(folder: Path, own: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _say("downloading wheels")
    _download("-d", str(folder), str(own), *_NEEDED)
    for name in _LARGE:
        for wheel in folder.glob(f"{name}-*.whl"):
            wheel.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="./dev gpu-bundle", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("wheel", type=Path, help="servolley's, for this Python")
    parser.add_argument("tests", type=Path, help="the C++ tests of the device room")
    parser.add_argument(
        "--arch",
        type=int,
        action="append",
        default=[],
        help="GPU code for this architecture only (90: Hopper); may be repeated. Without it: for all",
    )
    parser.add_argument("--part-mib", type=int, default=56)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    parts = _runtime(given.folder, given.arch, given.part_mib * _MIB)
    wheels = given.folder / WHEELS
    _wheels(wheels, given.wheel)
    shutil.copy(given.tests, wheels)
    (wheels / SUMS).write_text("".join(f"{digest(part)}  {part.name}\n" for part in parts))
    _explain(given.folder, parts, given.part_mib * _MIB)


def _explain(folder: Path, parts: Sequence[Path], part_bytes: int) -> None:
    """Which files go together, and what to do there."""
    wheels = folder / WHEELS
    small = sum(file.stat().st_size for file in wheels.iterdir())
    copies = [[part] for part in parts]
    if parts[-1].stat().st_size + small <= part_bytes:
        copies[-1].append(wheels)
    else:
        copies.append([wheels])
    print(f"In {len(copies)} copies, each beside the repository's files, in the repository's root there:")
    for number, paths in enumerate(copies, 1):
        size = sum(small if path == wheels else path.stat().st_size for path in paths) / _MIB
        names = " ".join(os.path.relpath(path, _ROOT) for path in paths)
        print(f"{number}. {names} ({size:.1f} MiB), then there:")
        print(f"   mkdir -p ~/bundle && cp -r {names} ~/bundle/")
    print("When all are there:")
    print("   PYTHON=python3 benchmarks/gpu.sh --bundle ~/bundle --quick")


def _say(text: str) -> None:
    print(f"bundle: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
