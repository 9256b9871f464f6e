"""Traces on disk, in the form that Triton's tools read: an array of objects, two for each trace - what it is
of, and when it passed each stage. A file is complete JSON after every write."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from servolley._core import Trace

_END = b"\n]\n"


class TraceFile:
    """``path``, or path.0, path.1, ... where files have a number of traces. Not thread-safe."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._written = 0
        self._whole = _Array(path)
        self._part: _Array | None = None
        self._parts = 0

    @property
    def full(self) -> bool:
        """Whether all files together have reached max_bytes: nothing more is written."""
        return self._written >= self._max_bytes

    def write(self, traces: "Sequence[Trace]", per_file: int) -> None:
        """``per_file``: traces in one file, 0 = all. A file that was there is overwritten. Raises OSError."""
        if per_file == 0 and traces and not self.full:
            self._written += self._whole.append(traces)
            return
        at = 0
        while at < len(traces) and not self.full:
            part = self._part
            if part is None or part.traces >= per_file:
                part = self._part = _Array(self._path.with_name(f"{self._path.name}.{self._parts}"))
                self._parts += 1
            some = traces[at : at + per_file - part.traces]
            self._written += part.append(some)
            at += len(some)


class _Array:
    """One file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.traces = 0

    def append(self, traces: "Sequence[Trace]") -> int:
        """Returns how many bytes longer the file is."""
        objects = [json.dumps(each, separators=(",", ":")) for trace in traces for each in _objects(trace)]
        text = (",\n".join(objects)).encode()
        if self.traces == 0:
            grown = self._path.write_bytes(b"[\n" + text + _END)
        else:
            with self._path.open("r+b") as file:
                file.seek(-len(_END), os.SEEK_END)
                grown = file.write(b",\n" + text + _END) - len(_END)
        self.traces += len(traces)
        return grown


def _objects(trace: "Trace") -> tuple[dict[str, Any], dict[str, Any]]:
    about: dict[str, Any] = {
        "id": trace["id"],
        "model_name": trace["model"],
        "model_version": trace["version"],
    }
    if trace["request_id"]:
        about["request_id"] = trace["request_id"]
    about |= {key: trace[key] for key in ("dialect", "code", "rows", "batch_rows")}
    stages = [{"name": name, "ns": ns} for name, ns in trace["stages"]]
    return about, {"id": trace["id"], "timestamps": stages}
