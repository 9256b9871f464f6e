"""Listening sockets: TCP and UNIX, who reaches them, and how many connections the process can hold."""

import asyncio
import contextlib
import ipaddress
import resource
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Descriptors that are not client connections: the runtime's, the loop's, models while they are read, and
# connections on their way out.
_RESERVED_DESCRIPTORS = 384

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


@dataclass(frozen=True, slots=True)
class Listener:
    """``address`` as shown to people: "http://host:port" (or https, grpc, grpcs) or "unix:path"."""

    server: asyncio.AbstractServer
    address: str
    port: int | None = None
    unix_inode: tuple[Path, int] | None = None

    def close(self) -> None:
        self.server.close()
        if self.unix_inode is not None:
            path, inode = self.unix_inode
            with contextlib.suppress(OSError):
                if path.stat().st_ino == inode:  # not another server's by now
                    path.unlink()


async def listen_tcp(
    factory: ProtocolFactory,
    host: str,
    port: int,
    *,
    backlog: int,
    reuse_port: bool,
    scheme: str,
    bound: Callable[[bool], None] = lambda _: None,
) -> Listener:
    """``scheme``: only for people; every port takes both protocols. ``bound``: told before the first
    connection whether only this machine gets here. Raises OSError."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        factory, host, port, backlog=backlog, reuse_port=reuse_port or None, start_serving=False
    )
    bound(all(_is_loopback(each.getsockname()[0]) for each in server.sockets))
    await server.start_serving()
    number = server.sockets[0].getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    return Listener(server, f"{scheme}://{shown}:{number}", port=number)


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


async def listen_unix(factory: ProtocolFactory, path: str, *, backlog: int) -> Listener:
    """Replaces a socket file that no server listens on any more. Raises OSError if one does."""
    bound, inode = _bind_unix(path)
    try:
        server = await asyncio.get_running_loop().create_unix_server(factory, sock=bound, backlog=backlog)
    except BaseException:
        bound.close()
        raise
    return Listener(server, f"unix:{path}", unix_inode=inode)


def _bind_unix(path: str) -> tuple[socket.socket, tuple[Path, int]]:
    absolute = Path(path).absolute()
    remove_stale_socket(absolute)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(path)
        return bound, (absolute, absolute.stat().st_ino)
    except BaseException:
        bound.close()
        raise


def remove_stale_socket(path: Path) -> None:
    """Removes a socket file that refuses connections. Raises OSError for a live one or another file."""
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise FileExistsError(f"{path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # its backlog is full: somebody listens
    raise OSError(f"another server listens on {path}")


def connection_limit(wanted: int) -> int:
    """``wanted`` connections, or as many as the process may open; raises the soft limit towards it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _RESERVED_DESCRIPTORS
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        soft = raised
    return max(1, min(wanted, soft - _RESERVED_DESCRIPTORS))
