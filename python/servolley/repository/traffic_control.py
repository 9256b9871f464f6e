"""Judges canaries once a second, and does what an administrator asks for. Loop thread only."""

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from servolley.config.traffic import check_split
from servolley.repository.canary import Decision, Reason, Verdict
from servolley.repository.routing import CanaryState
from servolley.status import Code, StatusError, invalid_argument

if TYPE_CHECKING:
    from servolley.repository.manager import Manager
    from servolley.repository.records import ModelRecord
    from servolley.repository.routing import Routing

_INTERVAL_S = 1.0

_log = logging.getLogger(__name__)


class TrafficControl:
    """Over one manager's models. What is asked for raises StatusError if it cannot be."""

    def __init__(self, manager: "Manager") -> None:
        self._manager = manager

    async def run(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_INTERVAL_S)
            self.look(loop.time())

    def look(self, now: float) -> None:
        for model in [*self._manager.models.values()]:
            if model.found.config.canary is None:
                continue
            try:
                self._judge(model, now)
            except Exception:
                _log.exception("judging a canary failed", extra={"fields": {"model": model.name}})

    def _judge(self, model: "ModelRecord", now: float) -> None:
        routing = model.routing()
        verdict = model.traffic.judge(model.found.config.canary, routing, model.available(), now)
        if verdict is not None and verdict.decision is not Decision.KEEP:
            self._decide(model, routing, verdict)

    def set_split(self, model: "ModelRecord", split: Mapping[int, int]) -> None:
        """Holds until it is reset, a canary is promoted, or [traffic] or [canary] change."""
        available = model.available()
        for version, weight in split.items():
            if version not in available:
                raise invalid_argument(f"version {version} of '{model.name}' is not available")
            outcome = model.traffic.outcomes.get(version)
            if weight > 0 and outcome is not None and outcome.state is CanaryState.ROLLED_BACK:
                raise StatusError(
                    Code.FAILED_PRECONDITION, f"version {version} was rolled back: reset that first"
                )
        if not split:
            raise invalid_argument("a split needs versions")
        try:
            check_split(dict(split))
        except ValueError as error:
            raise invalid_argument(str(error)) from error
        model.traffic.by_hand = dict(split)
        weights = {str(version): weight for version, weight in split.items()}
        _log.info("split set", extra={"fields": {"model": model.name, "weights": weights}})
        self._manager.traffic_changed(model)

    def reset(self, model: "ModelRecord") -> None:
        """Forgets every decision and split by hand: the traffic is as configured, the canary judged anew."""
        model.traffic.reset()
        _log.info("traffic reset", extra={"fields": {"model": model.name}})
        self._manager.traffic_changed(model)

    def promote(self, model: "ModelRecord") -> None:
        self._by_hand(model, Verdict(Decision.PROMOTE, None, "by hand"))

    def roll_back(self, model: "ModelRecord") -> None:
        self._by_hand(model, Verdict(Decision.ROLL_BACK, Reason.BY_HAND, "by hand"))

    def _by_hand(self, model: "ModelRecord", verdict: Verdict) -> None:
        routing = model.routing()
        if routing.canary is None or routing.stable is None:
            what = "has no [canary]" if routing.state is None else "has no canary beside a stable version now"
            raise StatusError(Code.FAILED_PRECONDITION, f"'{model.name}' {what}")
        self._decide(model, routing, verdict)

    def _decide(self, model: "ModelRecord", routing: "Routing", verdict: Verdict) -> None:
        canary = routing.canary
        assert canary is not None
        model.traffic.decide(canary, model.weights().get(canary), verdict)
        fields = {"model": model.name, "version": canary, "stable": routing.stable, "why": verdict.text}
        if verdict.decision is Decision.PROMOTE:
            _log.info("canary promoted", extra={"fields": fields})
        else:
            _log.warning("canary rolled back", extra={"fields": fields})
        self._manager.traffic_changed(model)
