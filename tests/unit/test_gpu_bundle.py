"""What is taken apart for a machine without network is there again as it was, but for the GPU code that was
not wanted."""

from __future__ import annotations

import lzma
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from benchmarks import fatbin, gpu_bundle, gpu_unbundle


def container(*entries: tuple[int, bytes]) -> bytes:
    """As NVIDIA's linker writes it: the second entry's header is longer, as of those with options."""
    content = b""
    for index, (arch, payload) in enumerate(entries):
        head = 112 if index == 1 else 64
        fields = struct.pack("<HHIQIIHHI", 2, 257, head, len(payload), len(payload) - 1, 0, 8, 1, arch)
        content += fields.ljust(head, b"\x11") + payload
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(content)) + content


SM75, SM90, SM120 = bytes(range(1, 65)), b"\x28\xb5\x2f\xfd" * 10, b"\xff" * 128
FIRST = container((75, SM75), (90, SM90), (120, SM120))
SECOND = container((120, SM120))


def library(code: bytes) -> bytearray:
    """A file with an ELF header, two sections and their table."""
    names = b"\0.nv_fatbin\0.shstrtab\0"
    begin = 64
    table = begin + len(code) + len(names)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2)
    sections = [(0, 0, 0), (1, begin, len(code)), (12, begin + len(code), len(names))]
    rows = b"".join(struct.pack("<IIQQQQIIQQ", at, 1, 0, 0, *where, 0, 0, 0, 0) for at, *where in sections)
    return bytearray(header + code + names + rows)


def test_code_for_other_architectures_becomes_zeros_and_nothing_moves() -> None:
    code = FIRST + bytes(24) + SECOND
    slim = library(code)
    assert fatbin.keep_in_library(slim, {90}) == {75: 64, 90: 40, 120: 256}
    zeros = code.replace(SM75, bytes(64)).replace(SM120, bytes(128))
    assert slim == library(zeros)
    assert fatbin.keep_in_library(slim, {90}) == {75: 64, 90: 40, 120: 256}
    everything = library(code)
    fatbin.keep_in_library(everything, {75, 90, 120})
    assert everything == library(code)


@pytest.mark.parametrize(
    ("code", "archs", "why"),
    [
        (b"\1" * 64, {90}, "no container of GPU code"),
        (FIRST[:-8], {90}, "no container of GPU code"),
        (FIRST.replace(struct.pack("<Q", 40), struct.pack("<Q", 4000), 1), {90}, "no entry of GPU code"),
        (FIRST, {100}, "only"),
    ],
)
def test_what_is_not_understood_is_an_error(code: bytes, archs: set[int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        fatbin.keep(bytearray(code), 0, len(code), archs)
    with pytest.raises(ValueError, match="not a 64-bit ELF file"):
        fatbin.section(b"#!/bin/sh")
    with pytest.raises(ValueError, match=r"no section \.text"):
        fatbin.section(library(code), b".text")


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "onnxruntime_gpu-1.0-cp312-cp312-linux_x86_64.whl"
    info = "onnxruntime_gpu-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("onnxruntime/__init__.py", "there = True\n")
        archive.writestr("onnxruntime/capi/libonnxruntime_providers_tensorrt.so", os.urandom(100))
        archive.writestr("onnxruntime/capi/libonnxruntime_providers_cuda.so", bytes(library(FIRST)))
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: cp312-cp312-linux_x86_64\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_parts_are_joined_to_the_wheel_that_was_split(wheel: Path, tmp_path: Path) -> None:
    bundle, there = tmp_path / "bundle", tmp_path / "there"
    (bundle / "wheels").mkdir(parents=True)
    there.mkdir()
    content = gpu_bundle.slimmed(wheel, [90])
    packed = lzma.compress(content)
    gpu_bundle.split(packed, bundle, 10)
    parts = gpu_bundle.split(packed, bundle, 300)
    assert len(parts) == len(list(bundle.glob(gpu_unbundle.PARTS))) > 2
    sums = bundle / "wheels" / gpu_unbundle.SUMS
    sums.write_text("".join(f"{gpu_unbundle.digest(part)}  {part.name}\n" for part in parts))

    joined = gpu_unbundle.join(gpu_unbundle.verified(bundle), there)
    assert joined.name == wheel.name
    assert joined.read_bytes() == content
    with zipfile.ZipFile(joined) as archive:
        names = archive.namelist()
        record = archive.read("onnxruntime_gpu-1.0.dist-info/RECORD").decode()
    assert not any("tensorrt" in name for name in names)
    assert [line.split(",")[0] for line in record.splitlines()] == names

    parts[1].write_bytes(b"something else")
    with pytest.raises(ValueError, match=f"{parts[1].name} is damaged"):
        gpu_unbundle.verified(bundle)
    parts[1].unlink()
    run = [sys.executable, gpu_unbundle.__file__, str(bundle)]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (done.returncode, "is missing" in done.stderr) == (1, True), done.stderr
