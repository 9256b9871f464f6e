"""The C++ tests, one executable per room, run by pytest so that one summary counts everything."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("SERVOLLEY_TEST_BUILD", ROOT / "build" / "dev"))
ROOMS = sorted({path.parent.name for path in (ROOT / "tests" / "core").glob("*/*_test.cc")})


@pytest.mark.parametrize("room", ROOMS)
def test_room(room: str) -> None:
    run = subprocess.run([BUILD / f"{room}_tests"], capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    summary = re.search(r"test cases: +(\d+) \| +(\d+) passed", run.stdout)
    assert summary, run.stdout
    assert int(summary[1]) == int(summary[2]) > 0, f"some cases of {room} did not run:\n{run.stdout}"
