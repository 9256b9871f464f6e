"""Every address at which the server is to be reached: ports, sockets, which of them speak TLS, and who may
change the server where."""

import logging
from typing import TYPE_CHECKING

from servolley.config.addresses import UnixAddress, parse_address
from servolley.front import listeners
from servolley.front.door import Door
from servolley.front.gate import AdminError, Gates, Refusals
from servolley.front.grpc.services import no_services

if TYPE_CHECKING:
    from servolley.config.settings import ServerSettings
    from servolley.front.driver import Driver
    from servolley.front.gate import AdminToken
    from servolley.front.grpc.methods import Find
    from servolley.front.router import Router
    from servolley.front.tls_door import TlsDoor

_log = logging.getLogger(__name__)


class Entrances:
    """``router`` and ``find`` answer at every address but the metrics port, which has ``only_metrics``.
    ``refusals``: of calls that change the server."""

    def __init__(
        self,
        settings: "ServerSettings",
        driver: "Driver",
        router: "Router",
        only_metrics: "Router",
        find: "Find",
    ) -> None:
        self._http = settings.http
        self._admin = settings.admin
        self._driver = driver
        self._router = router
        self._only_metrics = only_metrics
        self._find = find
        self.refusals = Refusals()
        self._tls: TlsDoor | None = None
        self._listeners: list[listeners.Listener] = []

    async def open(self, tls: "TlsDoor | None", token: "AdminToken | None") -> None:
        """Raises OSError, and AdminError for an admin address that would take no calls."""
        self._tls = tls
        http, gates = self._http, Gates(token, self._admin.listen is not None, self.refusals)
        main = await self._listen(Door(self._driver, self._router, self._find, gates.everyday), http.port)
        if http.port == 0 and not _log.isEnabledFor(logging.INFO):
            print(main.address, flush=True)  # whoever left the choice to us must learn it
        if http.grpc_port is not None:
            door = Door(self._driver, self._router, self._find, gates.everyday)
            await self._listen(door, http.grpc_port, scheme="grpc")
        if http.unix_socket is not None:
            door = Door(self._driver, self._router, self._find, gates.everyday)
            await self._listen_unix(door, http.unix_socket, "listening on %s")
        if self._admin.listen is not None:
            await self._open_admin(self._admin.listen, gates)
        if http.metrics_port is not None:
            door = Door(self._driver, self._only_metrics, no_services, control_only=True)
            await self._listen(door, http.metrics_port, message="metrics on %s/metrics")

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()

    async def _open_admin(self, text: str, gates: Gates) -> None:
        address = parse_address(text)
        door = Door(self._driver, self._router, self._find, gates.own)
        if isinstance(address, UnixAddress):
            await self._listen_unix(door, address.path, "admin calls on %s")
            return
        await self._listen(door, address.port, host=address.host, message="admin calls on %s")
        if door.gate.refusal is not None:
            raise AdminError(f"others can reach {text}: --admin-listen needs --admin-token-file there")

    async def _listen(
        self,
        door: Door,
        port: int,
        *,
        host: str | None = None,
        scheme: str = "http",
        message: str = "listening on %s",
    ) -> listeners.Listener:
        factory: listeners.ProtocolFactory = door
        if self._tls is not None:
            factory = self._tls.behind(door, grpc_first=scheme == "grpc")
            scheme += "s"
        listener = await listeners.listen_tcp(
            factory,
            self._http.host if host is None else host,
            port,
            backlog=self._http.backlog,
            reuse_port=self._http.reuse_port,
            scheme=scheme,
            bound=door.bound,
        )
        self._add(listener, message)
        return listener

    async def _listen_unix(self, door: Door, path: str, message: str) -> None:
        """Never TLS: who may open it is an affair of the file system."""
        door.bound(local=True)
        self._add(await listeners.listen_unix(door, path, backlog=self._http.backlog), message)

    def _add(self, listener: listeners.Listener, message: str) -> None:
        self._listeners.append(listener)
        _log.info(message, listener.address)
