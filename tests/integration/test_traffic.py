"""Splits, canaries and shadows, with the stock clients of both protocols."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

import models
from integration.conftest import ServerFactory
from integration.lifecycle import (
    ALL_WAYS,
    EXAMPLE_WAYS,
    QUICK,
    TAKES_EXAMPLES,
    Ask,
    AskOverGrpc,
    AskOverHttp,
    asking,
    await_states,
    constant_of,
    put,
    set_config,
)
from integration.server_process import Server, wait_until

if TYPE_CHECKING:
    import onnx

ALL = "[versions]\nall = true\nlabels = { first = 1 }\n"
PATH = "/v2/repository/models/m/traffic"


def place(root: Path, config: str, *versions: onnx.ModelProto) -> Path:
    """A repository with a model m of these versions, from 1."""
    for number, model in enumerate(versions, 1):
        put(root, "m", number, model)
    set_config(root, ALL + config)
    return root


def traffic(server: Server) -> dict[str, Any]:
    answer = server.get(PATH)
    assert answer.status == 200, answer
    found = answer.json()
    assert isinstance(found, dict)
    return found


def await_canary(server: Server, state: str) -> dict[str, Any]:
    try:
        wait_until(lambda: traffic(server)["canary"]["state"] == state, 60, state)
    except AssertionError:
        raise AssertionError(f"{traffic(server)}\n{server.log}") from None
    canary = traffic(server)["canary"]
    assert isinstance(canary, dict)
    return canary


class Crowd:
    """A thread for each way of asking without a version; ``with`` ends them and raises what went wrong in
    any. What is to be expected depends on the split, so there is no witness of versions as with Askers."""

    def __init__(self, server: Server, *ways: Callable[[Server], Ask], tolerant: bool = False) -> None:
        """``tolerant``: refused requests are counted, and nothing more."""
        self.answers: list[tuple[float, int | None]] = []
        self.errors: list[str] = []
        self.refused = 0
        self._tolerant = tolerant
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(server, way)) for way in ways]

    def constants(self) -> set[float]:
        return {constant for constant, _ in self.answers}

    def _ask(self, server: Server, way: Callable[[Server], Ask]) -> None:
        with asking(server, way) as ask:
            while not self._stop.is_set():
                try:
                    self.answers.append(ask())
                except InferenceServerException as error:
                    self.refused += 1
                    if not self._tolerant:
                        self.errors.append(f"{way}: {error!r}")
                except Exception as error:
                    self.errors.append(f"{way}: {error!r}")
                    return

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        if kind is None:
            assert not self.errors, self.errors


def pressure(server: Server) -> Crowd:
    """Clients that go on whatever comes back."""
    return Crowd(server, AskOverHttp, AskOverGrpc, tolerant=True)


def test_shares_are_exact_in_every_protocol(serve: ServerFactory, tmp_path: Path) -> None:
    root = place(tmp_path / "r", "[traffic]\nsplit = { 1 = 3, 2 = 1 }\n", *map(models.plus, (1, 2, 3)))
    server = serve(root)
    for way in ALL_WAYS:
        with asking(server, way) as ask:
            answers = Counter(ask() for _ in range(40))
        constants = Counter({1.0: 30, 2.0: 10})
        assert Counter({constant: count for (constant, _), count in answers.items()}) == constants
        assert all(version in {None, constant} for constant, version in answers)
    assert [constant_of(server, f"m/versions/{version}") for version in (1, 2, 3)] == [1, 2, 3]
    assert [constant_of(server, "m/labels/first") for _ in range(4)] == [1, 1, 1, 1]
    assert traffic(server)["weights"] == {"1": 3, "2": 1}
    assert server.metric("servolley_traffic_weight", model="m", version="1") == 3
    assert server.metric("nv_inference_request_success", model="m", version="2") == 10 * len(ALL_WAYS) + 1


def test_examples_are_split_too(serve: ServerFactory, tmp_path: Path) -> None:
    config = (
        '[traffic]\nsplit = { 1 = 1, 2 = 1 }\n[signatures.serving_default]\nmethod = "regress"\nvalue = "y"\n'
    )
    server = serve(place(tmp_path / "r", config, models.plus(1), models.plus(2)))
    answers = []
    for _ in range(10):
        answer = server.post("/v1/models/m:regress", {"examples": [{"x": 0.0}]})
        assert answer.status == 200, answer
        answers += answer.json()["results"]
    assert Counter(answers) == {1.0: 5, 2.0: 5}


def test_a_split_changes_under_load(serve: ServerFactory, tmp_path: Path) -> None:
    root = place(tmp_path / "r", "[traffic]\nsplit = { 1 = 1, 2 = 1 }\n", models.plus(1), models.plus(2))
    server = serve(root, *QUICK)
    with Crowd(server, *ALL_WAYS) as crowd:
        wait_until(lambda: crowd.constants() == {1, 2}, 30, "both")
        set_config(root, ALL + "[traffic]\nsplit = { 1 = 1 }\n")
        wait_until(lambda: traffic(server)["weights"] == {"1": 1}, 30, "the new split")
        assert [constant_of(server) for _ in range(10)] == [1] * 10
        set_config(root, ALL + "[traffic]\nsplit = { 1 = 1, 9 = 1, 2 = 3 }\n")
        wait_until(lambda: traffic(server)["weights"] == {"1": 1, "2": 3}, 30, "without version 9")
        await_states(server, {1: "AVAILABLE", 2: "AVAILABLE"})
    assert server.log.count(" loading ") == 2


CANARY = "[canary]\nweight = 50\nmin_requests = 20\nwindow_s = 10\n"


@pytest.mark.parametrize(
    ("canary", "reason", "limits"),
    [
        (models.fails_at_zero(2), "error_rate", "max_latency_ratio = 0\n"),
        (models.not_a_number(), "nonfinite", "max_latency_ratio = 0\n"),
        (models.plus_slowly(2), "latency", "max_latency_ratio = 3\n"),
    ],
    ids=["fails", "nan", "slow"],
)
def test_a_bad_canary_is_rolled_back(
    serve: ServerFactory, tmp_path: Path, canary: onnx.ModelProto, reason: str, limits: str
) -> None:
    server = serve(place(tmp_path / "r", CANARY + limits, models.plus(1), canary))
    assert traffic(server)["weights"] == {"1": 50, "2": 50}
    with pressure(server):
        found = await_canary(server, "rolled_back")
    assert (found["version"], found["stable_version"], found["reason"]) == ("2", "1", reason)
    assert traffic(server)["weights"] == {"1": 1}
    window = found["window"]
    if reason == "error_rate":
        assert window["canary"]["errors"] == window["canary"]["requests"] > 0
        assert window["stable"]["errors"] == 0
    elif reason == "nonfinite":
        assert window["canary"]["nonfinite"] > 0 == window["stable"]["nonfinite"]
    else:
        assert window["canary"]["mean_ms"] > 3 * window["stable"]["mean_ms"]
        assert min(window["canary"]["requests"], window["stable"]["requests"]) >= 20
    # From here on nobody notices that there ever was one.
    with Crowd(server, *ALL_WAYS) as crowd:
        wait_until(lambda: len(crowd.answers) > 200, 60, "answers")
    assert crowd.constants() == {1}
    await_states(server, {1: "AVAILABLE", 2: "AVAILABLE"})
    assert server.metric("servolley_canary_rollbacks", model="m", reason=reason) == 1
    assert server.metric("servolley_canary_state", model="m", version="2", state="rolled_back") == 1
    assert "canary rolled back" in server.log


def test_a_good_canary_is_promoted_and_a_better_one_follows(serve: ServerFactory, tmp_path: Path) -> None:
    config = "[versions]\nlatest = 2\n" + CANARY + "max_latency_ratio = 0\npromote_after_s = 1\n"
    root = place(tmp_path / "r", "", models.plus(1), models.plus(2))
    set_config(root, config)
    server = serve(root, *QUICK)
    with Crowd(server, *ALL_WAYS) as crowd:
        await_canary(server, "promoted")
        assert [constant_of(server) for _ in range(10)] == [2] * 10
        put(root, "m", 3, models.plus(3))
        wait_until(lambda: traffic(server)["canary"]["version"] == "3", 30, "the next canary")
        assert traffic(server)["canary"]["stable_version"] == "2"
        await_canary(server, "promoted")
    assert crowd.constants() == {1, 2, 3}
    assert constant_of(server) == 3
    assert server.metric("servolley_canary_promotions", model="m") == 2


def test_a_rolled_back_canary_is_mended_on_disk(serve: ServerFactory, tmp_path: Path) -> None:
    root = place(tmp_path / "r", CANARY + "max_latency_ratio = 0\n", models.plus(1), models.fails_at_zero(2))
    server = serve(root, *QUICK)
    with pressure(server):
        await_canary(server, "rolled_back")
        put(root, "m", 2, models.plus(2))
        await_canary(server, "judging")
    assert traffic(server)["weights"] == {"1": 50, "2": 50}
    assert {constant_of(server) for _ in range(4)} == {1, 2}


# --- a restart later


def leave_rolled_back(serve: ServerFactory, root: Path, state_dir: Path, stop: signal.Signals) -> str:
    """A server's configuration, after one with it has rolled the canary of ``root`` back."""
    config = f'[repository]\nstate_dir = "{state_dir}"\n'
    server = serve(root, config=config)
    with pressure(server):
        await_canary(server, "rolled_back")
    wait_until(lambda: list(state_dir.glob("[!.]*.json")), 30, "the file")
    (file,) = state_dir.glob("[!.]*.json")
    wait_until(lambda: "rolled_back" in file.read_text(), 30, "the decision in the file")
    server.process.send_signal(stop)
    server.process.wait(60)
    return config


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL], ids=["ended", "killed"])
def test_nothing_is_sent_to_what_was_rolled_back_before(
    serve: ServerFactory, tmp_path: Path, stop: signal.Signals
) -> None:
    root = place(tmp_path / "r", CANARY + "max_latency_ratio = 0\n", models.plus(1), models.fails_at_zero(2))
    config = leave_rolled_back(serve, root, tmp_path / "state", stop)
    put(root, "m", 2, models.fails_at_zero(2))  # deployed once more: another inode, the same bytes
    server = serve(root, *QUICK, config=config)
    with Crowd(server, *ALL_WAYS) as crowd:
        wait_until(lambda: len(crowd.answers) > 200, 60, "answers")
    assert crowd.constants() == {1}
    found = traffic(server)
    assert found["weights"] == {"1": 1}
    assert (found["canary"]["state"], found["canary"]["reason"]) == ("rolled_back", "error_rate")
    assert " of the stable version" in found["canary"]["why"]
    assert server.metric("servolley_canary_state", model="m", version="2", state="rolled_back") == 1
    assert server.metric("nv_inference_request_failure", model="m", version="2") == 0


def test_other_weights_under_the_same_number_get_a_chance(serve: ServerFactory, tmp_path: Path) -> None:
    root = place(tmp_path / "r", CANARY + "max_latency_ratio = 0\n", models.plus(1), models.fails_at_zero(2))
    config = leave_rolled_back(serve, root, tmp_path / "state", signal.SIGTERM)
    put(root, "m", 2, models.plus(2))
    server = serve(root, config=config)
    assert traffic(server)["canary"]["state"] == "judging"
    assert Counter(constant_of(server) for _ in range(10)) == {1: 5, 2: 5}


def test_a_spoiled_file_stops_no_server(serve: ServerFactory, tmp_path: Path) -> None:
    root = place(tmp_path / "r", CANARY + "max_latency_ratio = 0\n", models.plus(1), models.fails_at_zero(2))
    config = leave_rolled_back(serve, root, tmp_path / "state", signal.SIGTERM)
    (file,) = (tmp_path / "state").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    server = serve(root, config=config)
    assert "what was decided about canaries cannot be read" in server.log
    assert traffic(server)["canary"]["state"] == "judging"


# --- shadows


def settled_shadow(server: Server) -> dict[str, Any]:
    wait_until(lambda: traffic(server)["shadow"]["in_flight"] == 0, 60, "the shadow has done everything")
    shadow = traffic(server)["shadow"]
    assert isinstance(shadow, dict)
    return shadow


def test_a_shadow_is_compared(serve: ServerFactory, tmp_path: Path) -> None:
    config = "[shadow]\nmax_in_flight = 1000\n"
    server = serve(place(tmp_path / "r", config, models.plus(1), models.plus(4)))
    for way in ALL_WAYS:
        with asking(server, way) as ask:
            assert {ask()[0] for _ in range(10)} == {1.0}
    shadow = settled_shadow(server)
    assert (shadow["version"], shadow["taken"], shadow["compared"], shadow["rows"]) == ("2", 40, 40, 40)
    assert (shadow["max_abs_error"], shadow["max_rel_error"]) == (3, 0.75)
    assert (shadow["dropped"], shadow["failed"], shadow["incompatible"], shadow["nonfinite"]) == (0, 0, 0, 0)
    assert server.metric("servolley_shadow_requests", model="m", version="2", result="compared") == 40
    assert server.metric("servolley_shadow_max_abs_error", model="m", version="2") == 3
    assert server.metric("nv_inference_request_success", model="m", version="1") == 40
    assert server.metric("nv_inference_request_success", model="m", version="2") == 0
    assert server.metric("nv_inference_count", model="m", version="2") == 0


def test_a_shadow_is_asked_what_examples_ask(serve: ServerFactory, tmp_path: Path) -> None:
    """A call is copied with all of its runs; the two of MultiInference are a row each."""
    config = TAKES_EXAMPLES + "[shadow]\nmax_in_flight = 1000\nfraction = 0.5\n"
    server = serve(place(tmp_path / "r", config, models.plus(1), models.plus(4)))
    with asking(server, AskOverHttp) as predict:
        for way, runs in zip(EXAMPLE_WAYS, (1, 2, 1), strict=True):
            before = settled_shadow(server)["rows"]
            with asking(server, way) as ask:
                for _ in range(5):  # of two calls the second is copied
                    assert predict()[0] == 1
                    assert ask()[0] == 1
            assert settled_shadow(server)["rows"] - before == 5 * runs
            with asking(server, way) as ask:
                for _ in range(5):
                    assert ask()[0] == 1
                    assert predict()[0] == 1
            assert settled_shadow(server)["rows"] - before == 5 * runs + 5
    shadow = settled_shadow(server)
    assert shadow["taken"] == shadow["compared"] == 35
    assert (shadow["max_abs_error"], shadow["incompatible"], shadow["dropped"]) == (3, 0, 0)


def test_labels_that_flip_are_counted_row_by_row(serve: ServerFactory, tmp_path: Path) -> None:
    config = "[shadow]\nmax_in_flight = 1000\n"
    server = serve(place(tmp_path / "r", config, models.scaled(1), models.scaled(-1)))
    rows = np.array([[1, 2, 3, 4], [5, 5, 5, 5], [9, 1, 1, 1]], np.float32)
    answer = server.infer(
        "m", [{"name": "INPUT0", "datatype": "FP32", "shape": [3, 4], "data": rows.ravel().tolist()}]
    )
    assert answer.json()["outputs"][0]["data"] == rows.ravel().tolist()
    shadow = settled_shadow(server)
    assert (shadow["rows"], shadow["label_flips"]) == (3, 2)  # of equal elements the first is the label
    assert (shadow["max_abs_error"], shadow["max_rel_error"]) == (18, 2)


@pytest.mark.parametrize(
    ("shadow", "what"),
    [
        (models.fails_at_zero(2), "failed"),
        (models.scaled(1), "incompatible"),
        (models.plus_slowly(1, 40), "dropped"),
    ],
    ids=["fails", "other", "slow"],
)
def test_a_bad_shadow_touches_nobody(
    serve: ServerFactory, tmp_path: Path, shadow: onnx.ModelProto, what: str
) -> None:
    config = "[runtime]\nintra_op_threads = 1\n[shadow]\nmax_in_flight = 4\n"
    server = serve(place(tmp_path / "r", config, models.plus(1), shadow))
    with Crowd(server, *ALL_WAYS) as crowd:
        wait_until(lambda: len(crowd.answers) > 400, 60, "answers")
    assert crowd.constants() == {1}
    found = settled_shadow(server)
    assert found[what] > 0
    assert found["taken"] + found["dropped"] + found["incompatible"] == len(crowd.answers)
    assert found["compared"] + found["failed"] == found["taken"]
    assert server.metric("nv_inference_request_failure", model="m") == 0


def test_a_shadow_comes_and_goes_under_load(serve: ServerFactory, tmp_path: Path) -> None:
    root = place(tmp_path / "r", "", models.plus(1), models.plus(2))
    server = serve(root, *QUICK)
    with Crowd(server, *ALL_WAYS) as crowd:
        for turn in range(3):
            set_config(root, ALL + f"[shadow]\nmax_in_flight = {10 + turn}\n")
            wait_until(lambda: traffic(server).get("shadow", {}).get("compared", 0) > 20, 30, "a shadow")
            put(root, "m", 2, models.plus(2 + turn))
            set_config(root, ALL)
            wait_until(lambda: "shadow" not in traffic(server), 30, "no shadow")
    assert crowd.constants() <= {1, 2, 3, 4}


# --- by hand


def test_traffic_by_hand(serve: ServerFactory, tmp_path: Path) -> None:
    root = place(tmp_path / "r", CANARY, models.plus(1), models.plus(2))
    server = serve(root)
    assert server.post(PATH, {"split": {"1": 1, "2": 4}}).json()["weights"] == {"1": 1, "2": 4}
    assert Counter(constant_of(server) for _ in range(10)) == {1: 2, 2: 8}
    assert server.post(PATH, {"action": "rollback"}).json()["canary"]["state"] == "rolled_back"
    assert {constant_of(server) for _ in range(4)} == {1}
    refused = server.post(PATH, {"split": {"2": 1}})
    assert (refused.status, refused.error) == (400, "version 2 was rolled back: reset that first")
    assert server.post(PATH, {"action": "promote"}).status == 200
    assert {constant_of(server) for _ in range(4)} == {2}
    assert server.post(PATH, {"action": "reset"}).json()["weights"] == {"1": 50, "2": 50}
    assert Counter(constant_of(server) for _ in range(10)) == {1: 5, 2: 5}


def test_what_the_configuration_may_not_say(serve: ServerFactory, tmp_path: Path) -> None:
    root = place(tmp_path / "r", "", models.plus(1), models.plus(2), models.plus(3))
    (root / "m" / "model.toml").write_text("[versions]\nlatest = 2\n[traffic]\nsplit = { 1 = 1, 3 = 1 }\n")
    server = serve(root, *QUICK, wait=False).wait_listening()
    wait_until(
        lambda: "not ready: a model has no available version" in server.log, 60, "the end of the start"
    )
    assert "names a version that [versions] does not keep: 1" in server.log
    set_config(root, "[canary]\n")
    wait_until(lambda: "need 2 versions, of which [versions] keeps 1" in server.log, 30, "the next error")
    set_config(root, "[versions]\nlatest = 2\n[canary]\n")
    await_states(server, {2: "AVAILABLE", 3: "AVAILABLE"})
    set_config(root, "[versions]\nlatest = 2\n[canary]\nwieght = 5\n")
    wait_until(lambda: "unknown key 'canary.wieght', did you mean 'weight'?" in server.log, 30, "the typo")
    assert traffic(server)["weights"] == {"2": 90, "3": 10}
