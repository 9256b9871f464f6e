"""Hostility by number, slowness and disappearance: slow senders, idle crowds, floods, signals under load.
Each test has a server of its own, set up so that seconds are enough."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import models
from integration.conftest import ServerFactory
from integration.hostile import assert_tells_nothing, survives
from integration.raw_http import ConnectionEnded, RawConnection, request
from integration.server_process import Server, wait_until

GOOD = request("POST", "/v1/models/half_plus_two:predict", b'{"instances":[1.0]}')


def slow_request(rows: int = 1) -> bytes:
    return request(
        "POST", "/v1/models/slow:predict", json.dumps({"instances": [[0.5] * 512] * rows}).encode()
    )


def assert_right(server: Server) -> None:
    assert server.predict("half_plus_two", {"instances": [1.0]}).json() == {"predictions": [2.5]}


@contextmanager
def many_connections(server: Server, count: int) -> Iterator[list[RawConnection]]:
    connections = [RawConnection(server.address) for _ in range(count)]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.slow
def test_slow_headers(serve: ServerFactory) -> None:
    """A head that does not end is cut off after ten seconds; the healthy are served meanwhile."""
    server = serve({"half_plus_two": models.half_plus_two()})
    with survives(server), many_connections(server, 200) as connections:
        opened = time.monotonic()
        for i, connection in enumerate(connections):
            connection.send(GOOD[: 1 + i % 50])
        ended: set[int] = set()
        while len(ended) < len(connections):
            assert time.monotonic() - opened < 25, f"{len(connections) - len(ended)} still open"
            assert_right(server)
            server.assert_live()
            for i, connection in enumerate(connections):
                if i in ended:
                    continue
                connection.socket.setblocking(False)
                try:
                    data = connection.socket.recv(4096)
                except BlockingIOError:
                    continue
                except ConnectionResetError:
                    data = b""
                assert not data or data.startswith(b"HTTP/1.1 408 "), data
                assert time.monotonic() - opened > 5, "a slow head was cut off too soon"
                ended.add(i)
            time.sleep(0.05)


@pytest.mark.slow
def test_two_thousand_idle_connections(serve: ServerFactory) -> None:
    server = serve({"half_plus_two": models.half_plus_two()})
    with survives(server):
        with many_connections(server, 2000) as connections:
            for connection in connections[::2]:
                connection.send(GOOD)
            for connection in connections[::2]:
                assert connection.read_answer().status == 200
            server.assert_live()
            assert_right(server)
            assert server.metric("servolley_connections") >= 2000
            # Idle connections cost little.
            held = server.vitals().resident_bytes
            assert held < 400 << 20, held
        wait_until(lambda: server.metric("servolley_connections") <= 2, 10, "closed connections forgotten")


def test_more_connections_than_allowed(serve: ServerFactory) -> None:
    server = serve({"half_plus_two": models.half_plus_two()}, "--max-connections", "20")
    with survives(server), many_connections(server, 19) as connections:
        for connection in connections:
            connection.send(GOOD)
            assert connection.read_answer().status == 200
        extra = [RawConnection(server.address) for _ in range(30)]
        refused = 0
        for connection in extra:
            try:
                connection.send_what_is_taken(GOOD)
                answer = connection.read_answer()
            except ConnectionEnded:
                continue
            if answer.status == 503:
                refused += 1
                assert answer.headers["retry-after"]
                assert_tells_nothing(answer)
        assert refused >= 20
        for connection in extra:
            connection.close()
        # Those who were there are served; and there is room again for one.
        for connection in connections:
            connection.send(GOOD)
            assert connection.read_answer().status == 200
        wait_until(lambda: server.get("/v2/health/live").status == 200, 10, "room for a new connection")


@pytest.mark.slow
def test_an_accept_storm(serve: ServerFactory) -> None:
    """Connections that come and go by the thousand, some saying something."""
    server = serve({"half_plus_two": models.half_plus_two()})
    with survives(server), RawConnection(server.address) as existing:

        def storm(seed: int) -> None:
            for i in range(1000):
                connection = RawConnection(server.address)
                if (seed + i) % 3 == 0:
                    connection.send(GOOD[: (seed + i) % len(GOOD)])
                connection.reset()

        storms = [threading.Thread(target=storm, args=(seed,)) for seed in range(4)]
        for thread in storms:
            thread.start()
        worst = 0.0
        while any(thread.is_alive() for thread in storms):
            began = time.monotonic()
            existing.send(GOOD)
            assert existing.read_answer().status == 200
            worst = max(worst, time.monotonic() - began)
        assert worst < 1, f"an existing connection waited {worst} s"
        assert_right(server)


@pytest.mark.slow
def test_pipelining_without_reading(serve: ServerFactory) -> None:
    """A client that asks and never reads is not read any further; nothing piles up without limit."""
    server = serve({"half_plus_two": models.half_plus_two(), "identity_fp32": models.identity()})
    body = json.dumps({"instances": [[1.25] * 2000]}).encode()
    asked = request("POST", "/v1/models/identity_fp32:predict", body)
    with survives(server), many_connections(server, 8) as connections:
        before = server.vitals().resident_bytes
        for connection in connections:
            connection.socket.settimeout(0.2)
            try:
                while True:
                    connection.send(asked * 50)
            except TimeoutError:
                pass  # back-pressure: the server reads no more
        server.assert_live()
        assert_right(server)
        assert server.vitals().resident_bytes - before < 256 << 20


def test_a_thousand_pipelined_requests(serve: ServerFactory) -> None:
    """More than may wait unanswered: reading pauses and goes on, answers stay in order."""
    server = serve({"half_plus_two": models.half_plus_two()})
    with survives(server), RawConnection(server.address) as connection:
        calls = [b'{"instances":[%d]}' % i for i in range(1000)]
        data = b"".join(request("POST", "/v1/models/half_plus_two:predict", body) for body in calls)
        writer = threading.Thread(target=connection.send, args=(data,))
        writer.start()
        for i in range(1000):
            assert connection.read_answer().json() == {"predictions": [i / 2 + 2]}
        writer.join()


@pytest.mark.slow
def test_a_queue_flood_whose_clients_vanish(serve: ServerFactory, tmp_path: Path) -> None:
    """A slow model, a short queue, hundreds of requests from clients that are gone: refused at once or
    cancelled, and hardly any of it is run."""
    root = models.save_repository(
        tmp_path / "flood", {"slow": models.slow(), "half_plus_two": models.half_plus_two()}
    )
    (root / "slow" / "model.toml").write_text(
        "[batching]\nmax_batch_size = 0\nmax_queue_size = 16\n"
        '[runtime]\nexecution = "threads"\ninstances = 1\n'
    )
    server = serve(root)
    with survives(server):
        before = server.statistics("slow")["execution_count"]
        busy = 0
        connections = []
        for _ in range(300):
            connection = RawConnection(server.address)
            connection.send(slow_request())
            connections.append(connection)
        server.assert_live()
        assert_right(server)
        wait_until(
            lambda: server.metric("nv_inference_request_failure", model="slow", reason="REJECTED") >= 250,
            10,
            "the queue refuses what is too much",
        )
        for connection in connections[:]:
            connection.socket.setblocking(False)
            try:
                head = connection.socket.recv(4096)
            except BlockingIOError:
                continue
            if head.startswith(b"HTTP/1.1 503"):
                busy += 1
                assert b"\r\nRetry-After: " in head
                assert b"Exceeds maximum queue size" in head
            connections.remove(connection)
            connection.close()
        assert busy >= 250
        for connection in connections:
            connection.reset()
        wait_until(
            lambda: server.metric("nv_inference_pending_request_count", model="slow") == 0,
            20,
            "the queue is empty",
        )
        assert server.metric("nv_inference_request_failure", model="slow", reason="CANCELED") >= 5
        ran = server.statistics("slow")["execution_count"] - before
        assert ran <= 20, f"{ran} requests of clients that were gone were run"
        assert server.predict("slow", {"instances": [[0.5] * 512]}).status == 200


def test_cancelled_requests_never_run(serve: ServerFactory, tmp_path: Path) -> None:
    root = models.save_repository(tmp_path / "cancel", {"slow": models.slow()})
    (root / "slow" / "model.toml").write_text(
        '[batching]\nmax_batch_size = 0\n[runtime]\nexecution = "threads"\ninstances = 1\n'
    )
    server = serve(root)
    with survives(server):
        before = server.statistics("slow")["execution_count"]
        first = RawConnection(server.address).send(slow_request())
        wait_until(
            lambda: server.metric("servolley_received_bytes_total") > len(slow_request()),
            5,
            "the first arrived",
        )
        others = [RawConnection(server.address).send(slow_request()) for _ in range(10)]
        wait_until(
            lambda: server.metric("nv_inference_pending_request_count", model="slow") >= 8,
            5,
            "the others wait",
        )
        for connection in others:
            connection.reset()
        assert first.read_answer().status == 200
        first.close()
        wait_until(
            lambda: server.metric("nv_inference_request_failure", model="slow", reason="CANCELED") >= 8,
            10,
            "the others are cancelled",
        )
        assert server.statistics("slow")["execution_count"] - before <= 3


def test_queue_timeouts_of_requests(serve: ServerFactory, tmp_path: Path) -> None:
    """``timeout`` is in microseconds: who waits longer is refused with 503 and never runs."""
    root = models.save_repository(tmp_path / "timeout", {"slow": models.slow()})
    (root / "slow" / "model.toml").write_text(
        '[batching]\nmax_batch_size = 0\n[runtime]\nexecution = "threads"\ninstances = 1\n'
    )
    server = serve(root)
    tensor = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 512], "data": [0.5] * 512}
    patient = request("POST", "/v2/models/slow/infer", json.dumps({"inputs": [tensor]}).encode())
    hasty = request(
        "POST",
        "/v2/models/slow/infer",
        json.dumps({"inputs": [tensor], "parameters": {"timeout": 10_000}}).encode(),
    )
    before = server.statistics("slow")["execution_count"]
    with RawConnection(server.address, timeout_s=60) as connection:
        connection.send(patient + patient + hasty * 5)
        answers = [connection.read_answer() for _ in range(7)]
    assert [answer.status for answer in answers] == [200, 200, 503, 503, 503, 503, 503]
    assert answers[2].error == "Request timeout expired"
    assert answers[2].headers["retry-after"]
    assert server.statistics("slow")["execution_count"] - before == 2


# --- signals (case 49)


class Load:
    """Clients that ask without end and count what they get, until the server is gone."""

    def __init__(self, server: Server, data: bytes, clients: int) -> None:
        self.answered = 0
        self.unanswered: list[str] = []
        self.statuses: set[int] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(server, data)) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self, server: Server, data: bytes) -> None:
        while not self._stop.is_set():
            try:
                connection = RawConnection(server.address, timeout_s=30)
            except OSError:
                return  # refused: the server no longer listens
            with connection:
                while not self._stop.is_set():
                    try:
                        connection.socket.sendall(data)
                    except OSError:
                        break  # closed between two requests
                    try:
                        answer = connection.read_answer()
                    except ConnectionEnded:
                        # The server may close an idle connection at any time: a request that crosses with the
                        # close was never read.
                        break
                    except (OSError, AssertionError) as error:
                        with self._lock:
                            self.unanswered.append(repr(error))
                        return
                    with self._lock:
                        self.answered += 1
                        self.statuses.add(answer.status)
                    if answer.headers.get("connection") == "close":
                        break

    def join(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load(serve: ServerFactory, number: signal.Signals) -> None:
    server = serve({"half_plus_two": models.half_plus_two()})
    load = Load(server, GOOD, clients=8)
    try:
        wait_until(lambda: load.answered > 500, 20, "the load runs")
        began = time.monotonic()
        server.signal(number)
        assert server.wait_exit(10) == 0, server.log
        assert time.monotonic() - began < 5
    finally:
        load.join()
    assert not load.unanswered
    assert load.statuses <= {200, 503}


def test_drain_finishes_what_is_in_flight(serve: ServerFactory, tmp_path: Path) -> None:
    """Everything that was read gets its answer, also what still waits in a queue."""
    root = models.save_repository(tmp_path / "drain", {"slow": models.slow()})
    (root / "slow" / "model.toml").write_text(
        '[batching]\nmax_batch_size = 0\n[runtime]\nexecution = "threads"\n'
    )
    server = serve(root)
    connections = [RawConnection(server.address, timeout_s=60).send(slow_request()) for _ in range(5)]
    wait_until(
        lambda: server.metric("servolley_received_bytes_total") > 5 * len(slow_request()),
        5,
        "requests arrived",
    )
    server.signal(signal.SIGTERM)
    wait_until(lambda: any("draining" in line for line in server.stderr), 5, "it drains")
    for connection in connections:
        answer = connection.read_answer()
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
        connection.assert_closed()
        connection.close()
    assert server.wait_exit(10) == 0


def test_ready_is_no_while_draining(serve: ServerFactory, tmp_path: Path) -> None:
    root = models.save_repository(tmp_path / "drain", {"slow": models.slow(rounds=800)})
    server = serve(root)
    with RawConnection(server.address, timeout_s=60) as connection:
        # Two calls in one write: the second is read behind the first and answered after it, in the drain.
        connection.send(slow_request())
        wait_until(
            lambda: server.metric("servolley_received_bytes_total") > len(slow_request()),
            5,
            "the request arrived",
        )
        server.signal(signal.SIGTERM)
        wait_until(lambda: any("draining" in line for line in server.stderr), 5, "it drains")
        with pytest.raises(ConnectionRefusedError):
            RawConnection(server.address)
        assert connection.read_answer().status == 200
        connection.assert_closed()
    assert server.wait_exit(10) == 0


@pytest.mark.slow
def test_a_second_signal_ends_at_once(serve: ServerFactory, tmp_path: Path) -> None:
    server = serve({"slow": models.slow(rounds=1500)}, "--drain-timeout", "60")
    connection = RawConnection(server.address).send(slow_request())
    wait_until(
        lambda: server.metric("servolley_received_bytes_total") > len(slow_request()),
        5,
        "the request arrived",
    )
    server.signal(signal.SIGTERM)
    wait_until(lambda: any("draining" in line for line in server.stderr), 5, "it drains")
    assert server.process.poll() is None
    server.signal(signal.SIGTERM)  # from timeout(1), which sends it to the process and to its group
    time.sleep(0.2)
    assert server.process.poll() is None
    began = time.monotonic()
    server.signal(signal.SIGINT)
    assert server.wait_exit(5) != 0
    assert time.monotonic() - began < 1
    connection.close()


def test_the_drain_has_an_end(serve: ServerFactory) -> None:
    """A client that holds its half of a request cannot hold the server."""
    server = serve({"half_plus_two": models.half_plus_two()}, "--drain-timeout", "0.5")
    with RawConnection(server.address) as connection:
        connection.send(GOOD[:40])
        server.assert_live()
        server.signal(signal.SIGTERM)
        began = time.monotonic()
        assert server.wait_exit(20) == 0, server.log
        assert time.monotonic() - began < 10


# --- disk (case 50)


def test_the_model_directory_vanishes(serve: ServerFactory, tmp_path: Path) -> None:
    root = models.save_repository(tmp_path / "vanishing", {"half_plus_two": models.half_plus_two()})
    server = serve(root)
    with survives(server):
        shutil.rmtree(root)
        assert_right(server)
        assert server.get("/v2/health/ready").status == 200
