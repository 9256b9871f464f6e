"""What one listener's connections are made of."""

from typing import TYPE_CHECKING

from servolley.front.gate import CLOSED, Gate
from servolley.front.transport import HttpProtocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from servolley.front.driver import Driver
    from servolley.front.grpc.methods import Find
    from servolley.front.router import Router


class Door:
    """A factory of connections. ``choose`` makes the gate once it is known whether only this machine gets
    here; ``control_only``: there is no inference here."""

    def __init__(
        self,
        driver: "Driver",
        router: "Router",
        find: "Find",
        choose: "Callable[[bool], Gate]" = lambda _: CLOSED,
        *,
        control_only: bool = False,
    ) -> None:
        self._driver = driver
        self._router = router
        self._find = find
        self._choose = choose
        self._control_only = control_only
        self.gate = CLOSED

    def bound(self, local: bool) -> None:
        """Before the first connection."""
        self.gate = self._choose(local)

    def __call__(self) -> HttpProtocol:
        return HttpProtocol(
            self._driver, self._router, self._find, self.gate, control_only=self._control_only
        )
