"""Traffic of one model: what is, and what an administrator changes."""

from typing import TYPE_CHECKING, Any

import msgspec

from servolley.front.calls import Call, Reply, json_reply
from servolley.front.gate import Access
from servolley.front.router import Router
from servolley.repository.names import parse_version
from servolley.status import invalid_argument

if TYPE_CHECKING:
    from servolley.front.context import ServerContext
    from servolley.repository.canary import Counts
    from servolley.repository.records import ModelRecord
    from servolley.repository.routing import Routing
    from servolley.repository.traffic_control import TrafficControl

_LARGEST_WEIGHT = 1_000_000


class TrafficRoutes:
    """Handlers over one server's context."""

    def __init__(self, context: "ServerContext", control: "TrafficControl") -> None:
        self._context = context
        self._control = control

    def register(self, router: Router) -> None:
        path = r"/v2/repository/models/(?P<model>[^/]+)/traffic"
        router.add(path, {"GET": self.state, "POST": self.change}, access=Access.ADMIN)

    def state(self, call: Call) -> Reply:
        return json_reply(traffic_state(self._context.model(call.params["model"])))

    def change(self, call: Call) -> Reply:
        """{"split": {"1": 90, "2": 10}}, or {"action": "promote", "rollback" or "reset"}."""
        model = self._context.model(call.params["model"])
        document = call.json_object()
        if len(document) != 1 or not document.keys() <= {"split", "action"}:
            raise invalid_argument("give either 'split' or 'action'")
        if "split" in document:
            self._control.set_split(model, _read_split(document["split"]))
        else:
            control = self._control
            actions = {"promote": control.promote, "rollback": control.roll_back, "reset": control.reset}
            action = document["action"]
            if not isinstance(action, str) or action not in actions:
                raise invalid_argument("'action' must be promote, rollback or reset")
            actions[action](model)
        return json_reply(traffic_state(model))


def _read_split(split: Any) -> dict[int, int]:
    if not isinstance(split, dict):
        raise invalid_argument("'split' must be an object of versions and weights")
    read = {}
    for key, weight in split.items():
        version = parse_version(key)
        if version is None:
            raise invalid_argument("'split' has something that is not a version")
        if type(weight) is not int or not 0 <= weight <= _LARGEST_WEIGHT:
            raise invalid_argument(f"a weight must be an integer from 0 to {_LARGEST_WEIGHT}")
        if version in read:
            raise invalid_argument(f"'split' names version {version} twice")
        read[version] = weight
    return read


def traffic_state(model: "ModelRecord") -> dict[str, Any]:
    """What GET answers; versions are strings, as everywhere in the protocol."""
    routing = model.routing()
    state: dict[str, Any] = {
        "model": model.name,
        "default_version": _text(routing.default),
        "weights": {str(version): weight for version, weight in routing.weights.items()},
        "by_hand": model.traffic.by_hand is not None,
    }
    if model.found.config.canary is not None:
        state["canary"] = _canary(model, routing)
    if model.found.config.shadow is not None:
        state["shadow"] = _shadow(model, routing)
    return state


def _canary(model: "ModelRecord", routing: "Routing") -> dict[str, Any]:
    traffic, limits = model.traffic, model.found.config.canary
    assert routing.state is not None
    state: dict[str, Any] = {
        "version": _text(routing.canary),
        "stable_version": _text(routing.stable),
        "state": routing.state.value,
        "limits": msgspec.to_builtins(limits),
    }
    outcome = traffic.outcomes.get(routing.canary) if routing.canary is not None else None
    if outcome is not None:
        reason = outcome.verdict.reason
        state["reason"] = None if reason is None else reason.value
        state["why"] = outcome.verdict.text
        if outcome.counts is not None:
            state["window"] = _window(*outcome.counts)
    elif traffic.judgement is not None:
        state["watched_s"] = round(traffic.judgement.watched_s, 3)
        state["window"] = _window(*traffic.judgement.counts)
    return state


def _window(canary: "Counts", stable: "Counts") -> dict[str, Any]:
    return {"canary": _counts(canary), "stable": _counts(stable)}


def _counts(counts: "Counts") -> dict[str, Any]:
    answered = counts.successes > 0
    return {
        "requests": counts.requests,
        "errors": counts.errors,
        "nonfinite": counts.nonfinite,
        "in_flight": counts.in_flight,
        "mean_ms": round(counts.mean_ns() / 1e6, 6) if answered else None,
        "p99_ms": round(counts.p99_ns() / 1e6, 6) if answered else None,
    }


def _shadow(model: "ModelRecord", routing: "Routing") -> dict[str, Any]:
    shadow = model.traffic.shadow
    config = msgspec.to_builtins(model.found.config.shadow, enc_hook=int)
    state = {"version": _text(routing.shadow), "limits": config}
    return state if shadow is None else state | dict(shadow.stats())


def _text(version: int | None) -> str | None:
    return None if version is None else str(version)
