"""The wheel as a user gets it: into an empty environment, with nothing of the development machine in
reach."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import models

ROOT = Path(__file__).resolve().parents[2]
# What every Linux of the wheel's platform tag has: the list of PEP 600's manylinux policies, as far as we
# need it.
SYSTEM_LIBRARIES = {
    "ld-linux-aarch64.so.1",
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
    "libstdc++.so.6",
    "libz.so.1",
    "linux-vdso.so.1",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def wheel() -> Path:
    """Built from this tree and repaired, as for a release."""
    subprocess.run([ROOT / "dev", "wheel"], check=True, cwd=ROOT, timeout=1200)
    (built,) = (ROOT / "dist").glob("servolley-*.whl")
    return built


@pytest.fixture(scope="session")
def clean_venv(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and the [cpu] extra, and only what those pull in."""
    venv = tmp_path_factory.mktemp("clean") / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [str(venv / "bin" / "python"), "-m", "pip"]
    subprocess.run(
        [*pip, "install", "--quiet", "--only-binary", ":all:", f"{wheel}[cpu]"], check=True, timeout=600
    )
    return venv


def bare(venv: Path, home: Path) -> dict[str, str]:
    """An environment that reaches no compiler, no tool and no setting of this machine."""
    return {"PATH": str(venv / "bin"), "HOME": str(home), "LC_ALL": "C.UTF-8"}


def run(venv: Path, home: Path, *command: str) -> str:
    done = subprocess.run(
        [venv / "bin" / command[0], *command[1:]],
        env=bare(venv, home),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_wheel_is_tagged_for_many_linuxes(wheel: Path) -> None:
    assert "-manylinux_2_" in wheel.name


def test_wheel_carries_stubs_marker_and_licences(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        licences = archive.read("servolley/THIRD_PARTY_LICENSES").decode()
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert {"servolley/py.typed", "servolley/_core.pyi", "servolley/front/grpc/descriptors.bin"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.endswith((".cc", ".h", ".a"))]
    for work in ("Boost", "fast_float", "nghttp2", "protozero", "pybind11", "zlib"):
        assert re.search(rf"^{work} \(", licences, re.MULTILINE), work
    assert "Permission is hereby granted" in licences
    requirements = re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)
    assert requirements
    of_the_server = [requirement for requirement in requirements if "extra ==" not in requirement]
    assert any(requirement.startswith("protobuf") for requirement in of_the_server)
    assert not [requirement for requirement in of_the_server if requirement.startswith("grpc")]


def test_imports_without_compiler_headers_or_gpu(clean_venv: Path, tmp_path: Path) -> None:
    where = run(clean_venv, tmp_path, "python", "-c", "import servolley._core as core; print(core.__file__)")
    assert Path(where).is_relative_to(clean_venv)


def test_extension_links_to_system_or_bundled_libraries_only(clean_venv: Path, tmp_path: Path) -> None:
    extension = run(
        clean_venv, tmp_path, "python", "-c", "import servolley._core as core; print(core.__file__)"
    )
    linked = subprocess.run(["ldd", extension], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in linked.splitlines() if line.strip()]
    assert lines
    for line in lines:
        bundled = "=>" in line and Path(line[2]).is_relative_to(clean_venv)
        assert bundled or Path(line[0]).name in SYSTEM_LIBRARIES, linked
        assert "not found" not in " ".join(line), linked


def test_versions_agree(clean_venv: Path, tmp_path: Path, wheel: Path) -> None:
    version = wheel.name.split("-")[1]
    core = run(
        clean_venv, tmp_path, "python", "-c", "import servolley._core as core; print(core.__version__)"
    )
    package = run(clean_venv, tmp_path, "python", "-c", "import servolley; print(servolley.__version__)")
    assert core == package == version
    assert version in run(clean_venv, tmp_path, "servolley", "--version")


def test_server_needs_no_grpcio(clean_venv: Path, tmp_path: Path) -> None:
    installed = run(clean_venv, tmp_path, "python", "-m", "pip", "list", "--format", "freeze").lower()
    assert "servolley==" in installed
    assert "grpc" not in installed


@pytest.fixture
def served(clean_venv: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`servolley serve` of one model, from the clean environment: the process and its port."""
    repository = tmp_path / "repository"
    models.save_repository(repository, {"tiny": models.tiny()})
    server = subprocess.Popen(
        [clean_venv / "bin" / "servolley", "serve", repository, "--host", "127.0.0.1", "--port", "0"],
        env=bare(clean_venv, tmp_path),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert server.stdout is not None
        log = ""
        for line in server.stdout:
            log += line
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if found:
                yield server, int(found[1])
                return
        pytest.fail(f"the server printed no port:\n{log}")
    finally:
        server.kill()
        server.communicate()


def test_installed_server_answers_and_shuts_down_cleanly(served: tuple[subprocess.Popen[str], int]) -> None:
    server, port = served
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(method: str, path: str, body: object = None) -> tuple[int, bytes]:
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        return response.status, response.read()

    while (status := ask("GET", "/v2/health/ready")[0]) != 200:
        assert status == 503
    status, answer = ask("POST", "/v1/models/tiny:predict", {"instances": [[1.0] * 16]})
    assert status == 200, answer
    assert len(json.loads(answer)["predictions"][0]) == 16
    connection.close()
    server.terminate()
    assert server.wait(30) == 0
