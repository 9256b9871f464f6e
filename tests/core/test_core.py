"""The C++ tests, one executable per room, run by pytest so that one summary counts everything."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("SERVOLLEY_TEST_BUILD", ROOT / "build" / "dev"))
ROOMS = sorted({path.parent.name for path in (ROOT / "tests" / "core").glob("*/*_test.cc")})


def on_the_machines_driver(**environment: str) -> str:
    """What the device room says about the libcuda.so.1 that it finds."""
    command = [str(BUILD / "device_tests"), "--no-skip", "--success=false", "-tc=machine's driver*"]
    run = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    output: str = run.stdout
    summary = re.search(r"test cases: +(\d+) \| +(\d+) passed", output)
    assert summary, output
    assert int(summary[1]) == int(summary[2]) >= 5, output
    return output


def test_the_driver_that_is_found_by_name_is_the_one_that_is_used() -> None:
    found = on_the_machines_driver(LD_LIBRARY_PATH=str(BUILD / "standin"), SERVOLLEY_STANDIN="devices=2")
    assert "Stand-in GPU 1" in found


@pytest.mark.gpu
def test_nvidias_driver() -> None:
    assert "Stand-in" not in on_the_machines_driver()


@pytest.mark.parametrize("room", ROOMS)
def test_room(room: str) -> None:
    with subprocess.Popen(
        [BUILD / f"{room}_tests"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        try:
            output, _ = run.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGABRT)  # doctest's handler says in which case it was
            try:
                output = run.communicate(timeout=60)[0] + "\nthe tests hung"
            finally:
                run.kill()  # whose handler hangs as well
    assert run.returncode == 0, output
    summary = re.search(r"test cases: +(\d+) \| +(\d+) passed", output)
    assert summary, output
    assert int(summary[1]) == int(summary[2]) > 0, f"some cases of {room} did not run:\n{output}"
