"""Waiting for a machine that has nothing else to do."""

from __future__ import annotations

import time

from benchmarks.servers import machine_busy_seconds


class Patience:
    """`seconds`: how long all waiting together may take. `processors`: those that ought to be free."""

    def __init__(self, seconds: float, processors: int) -> None:
        self._seconds = seconds
        self._processors = processors

    def wait_for_quiet(self) -> None:
        """Waits, as long as there is patience, until others leave nine tenths of the machine alone."""
        while self._seconds > 0:
            busy, began = machine_busy_seconds(), time.monotonic()
            time.sleep(0.3)
            elapsed = time.monotonic() - began
            if machine_busy_seconds() - busy < 0.1 * elapsed * self._processors:
                return
            self._seconds -= elapsed
