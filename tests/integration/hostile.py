"""The conditions that hold around every hostile input, and what the hostile tests share."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from integration.raw_http import RawConnection
from integration.server_process import Answer, Server, Vitals, wait_until

MEMORY_TOLERANCE_BYTES = 32 << 20
SETTLE_TIMEOUT_S = 30.0

#: What must never be told to a client: places on this machine, addresses, stack traces.
INTERNALS = re.compile(
    r"(/home/|/root/|/tmp/|/usr/|/opt/|/build/|\.cc\b|\.py\b|\.h:\d|0x[0-9a-f]{6,}|Traceback|site-packages)"
)


def assert_tells_nothing(answer: Answer) -> None:
    """An error answer is JSON with an ``error`` text that gives nothing internal away."""
    if answer.status >= 400:
        text = answer.error
        assert not INTERNALS.search(text), text
        assert len(text) < 4096, f"{len(text)} bytes of error text"


@contextmanager
def survives(server: Server) -> Iterator[None]:
    """The process lives and answers within a second; memory, descriptors and threads come back to what they
    were."""
    server.assert_live()
    before = server.vitals()
    yield
    server.assert_live()
    seen: list[Vitals] = []

    def settled() -> bool:
        now = server.vitals()
        seen[:] = [now]
        return (
            now.resident_bytes <= before.resident_bytes + MEMORY_TOLERANCE_BYTES
            and now.descriptors <= before.descriptors
            and now.threads >= before.threads
        )

    try:
        wait_until(settled, SETTLE_TIMEOUT_S, "memory and descriptors back")
    except AssertionError as error:
        raise AssertionError(f"before {before}, after {seen[0]}") from error
    server.assert_live()


INFER = "/v2/models/identity_fp32/infer"
PREDICT = "/v1/models/identity_fp32:predict"
PAIR = "/v2/models/two_inputs/infer"
#: Every route that reads a JSON body.
JSON_ROUTES = [
    INFER,
    PREDICT,
    "/v2/repository/index",
    "/v2/repository/models/tiny/load",
    "/v2/repository/models/tiny/unload",
]


def tensor(**changes: Any) -> dict[str, Any]:
    """A good input of identity_fp32, with changes; a key set to ... is left out."""
    whole = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]} | changes
    return {key: value for key, value in whole.items() if value is not ...}


def assert_refused(answer: Answer, *statuses: int) -> None:
    assert answer.status in (statuses or (400,)), answer
    assert_tells_nothing(answer)


def assert_still_right(server: Server) -> None:
    answer = server.infer("identity_fp32", [tensor()])
    assert (answer.status, answer.json()["outputs"][0]["data"]) == (200, [1.0, 2.0])


def post_binary(server: Server, head: str | dict[str, Any], data: bytes, length: str | None = None) -> Answer:
    text = head if isinstance(head, str) else json.dumps(head)
    headers = {"Inference-Header-Content-Length": str(len(text)) if length is None else length}
    return server.post(INFER, text.encode() + data, headers)


def first_answer_then_closed(server: Server, data: bytes, *, half_close: bool = False) -> Answer:
    with RawConnection(server.address) as connection:
        connection.send_what_is_taken(data)
        if half_close:
            connection.half_close()
        answer = connection.read_answer()
        connection.assert_closed()
        return answer
