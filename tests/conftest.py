"""What every test shares: tests marked ``gpu`` are skipped where there is no NVIDIA driver."""

from __future__ import annotations

import ctypes

import pytest


def _driver_is_there() -> bool:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _driver_is_there():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA driver or GPU on this machine"))
