"""TLS between a socket's transport and ``HttpProtocol``: a protocol to the one, a transport to the other.
OpenSSL works on memory; ciphertext is read into one buffer that all connections share, plaintext goes
straight into the core's."""

import asyncio
import contextlib
import ssl
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, cast

from servolley.front.linger import close_gently

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from servolley.front.handshakes import Handshakes

_scratch = bytearray(256 << 10)
_scratch_view = memoryview(_scratch)

# What is encrypted at once: a slow reader makes us hold that much ciphertext, whatever waits behind it.
_CHUNK_BYTES = 64 << 10
# What a client may send before its handshake's next step has had its turn.
_MOST_EARLY_BYTES = 64 << 10
# TLS's own answers (key updates, alerts) that a client may leave unread.
_MOST_UNREAD_BYTES = 256 << 10

_PLAIN_BODY = b'{"error":"this port speaks TLS: use https"}'
_PLAIN_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_PLAIN_BODY), _PLAIN_BODY)
)


class Application(Protocol):
    """What HttpProtocol is to a transport."""

    def connection_made(self, base: asyncio.BaseTransport) -> None: ...
    def get_buffer(self, sizehint: int, /) -> memoryview: ...
    def buffer_updated(self, nbytes: int) -> None: ...
    def eof_received(self) -> bool: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...


class TlsConnection(asyncio.BaseProtocol, asyncio.Transport):
    """One connection. ``make`` is called when its handshake is done; before, there is nothing but OpenSSL's
    state."""

    __slots__ = (
        "_app",
        "_app_paused",
        "_closing",
        "_eof",
        "_eof_told",
        "_handshakes",
        "_incoming",
        "_inner",
        "_make",
        "_outgoing",
        "_pieces",
        "_read",
        "_reading_paused",
        "_ssl",
        "_step_due",
        "_unsent",
        "_writing_paused",
    )

    def __init__(
        self, handshakes: "Handshakes", context: ssl.SSLContext, make: "Callable[[], Application]"
    ) -> None:
        super().__init__()
        self._handshakes = handshakes
        self._make = make
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        # The stubs know neither what read returns with a buffer nor what else is one.
        self._read: Callable[[int, memoryview], int] = cast("Any", self._ssl.read)
        self._app: Application | None = None
        self._pieces: deque[bytes | memoryview] = deque()  # plaintext that was not encrypted yet
        self._unsent = 0  # bytes in _pieces
        self._step_due = False
        self._reading_paused = False
        self._writing_paused = False  # the socket takes no more for now
        self._app_paused = False
        self._eof = False
        self._eof_told = False
        self._closing = False

    # --- the socket's protocol ---

    def connection_made(self, base: asyncio.BaseTransport) -> None:
        self._inner = cast("asyncio.Transport", base)
        # As without TLS: what the kernel does not take is to be noticed at once.
        self._inner.set_write_buffer_limits(high=0)
        if not self._handshakes.begin(self):
            self.abort()

    def get_buffer(self, _sizehint: int) -> bytearray:
        return _scratch

    def buffer_updated(self, nbytes: int) -> None:
        self._incoming.write(_scratch_view[:nbytes])
        if self._app is not None:
            self._decrypt(self._app)
        elif not self._step_due:
            self._step_due = True
            self._handshakes.step_soon(self)
        elif self._incoming.pending > _MOST_EARLY_BYTES and not self._reading_paused:
            self.pause_reading()

    def eof_received(self) -> bool:
        if self._app is None:
            return False
        self._eof = True
        self._decrypt(self._app)
        return True  # as without TLS, answers under way may still be sent

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self._app is not None and not self._app_paused:
            self._app_paused = True
            self._app.pause_writing()

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._encrypt()
        if self._writing_paused:
            return
        if self._closing:
            self._end()
        elif self._app is not None and self._app_paused:
            self._app_paused = False
            self._app.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._handshakes.end(self)
        self._drop_unsent()
        app, self._app = self._app, None
        if app is not None:
            app.connection_lost(exc)

    # --- HttpProtocol's transport ---

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._ssl if name == "ssl_object" else self._inner.get_extra_info(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._inner.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._unsent + self._inner.get_write_buffer_size()

    def pause_reading(self) -> None:
        self._reading_paused = True
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading_paused:
            return
        self._reading_paused = False
        self._inner.resume_reading()
        if self._app is not None:
            # Not from in here: whoever resumes is in the middle of something.
            self._handshakes.driver.loop.call_soon(self._decrypt_late)

    def write(self, data: "bytes | bytearray | memoryview") -> None:
        self.writelines((data,))

    def writelines(self, pieces: "Iterable[bytes | bytearray | memoryview]") -> None:
        if self._closing:
            return
        for piece in pieces:
            self._pieces.append(piece)  # type: ignore[arg-type]  # nobody here changes a bytearray behind us
            self._unsent += len(piece)
        self._encrypt()

    def write_eof(self) -> None:
        """Called with everything written: HttpProtocol ends a connection when its transport is empty."""
        self._closing = True
        self._say_goodbye()
        self._inner.write_eof()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Only for Linger, which throws away what it reads: it gets ciphertext."""
        self._closing = True
        self._inner.set_protocol(protocol)

    def is_closing(self) -> bool:
        return self._inner.is_closing()

    def close(self) -> None:
        self._closing = True
        if not self._pieces:
            self._end()

    def abort(self) -> None:
        self._closing = True
        self._drop_unsent()
        self._inner.abort()

    # --- the handshake ---

    def handshake(self) -> None:
        """A step of it, when Handshakes says so."""
        self._step_due = False
        if self._closing:
            return
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            self.resume_reading()
            return
        except ssl.SSLError as error:
            self._refuse(error)
            return
        self._send()
        self._handshakes.end(self)
        self.resume_reading()
        self._app = app = self._make()
        app.connection_made(self)
        if self._writing_paused:
            self.pause_writing()
        self._decrypt(app)

    def _refuse(self, error: ssl.SSLError) -> None:
        self._closing = True
        self._handshakes.end(self)
        if error.reason == "HTTP_REQUEST":
            self._inner.write(_PLAIN_ANSWER)
        else:
            self._send()  # the alert
        close_gently(self._handshakes.driver, self._inner, self.connection_lost)

    # --- this room ---

    def _decrypt(self, app: Application) -> None:
        """Everything that is here and wanted goes to the application."""
        incoming, read = self._incoming, self._read
        while not (self._reading_paused or self._closing or self._eof_told):
            space = app.get_buffer(-1)
            size = len(space)
            filled = 0
            try:
                # A record is 16 KiB at most; the application shall see what came together in one piece.
                while filled < size:
                    count = read(size - filled, space[filled:] if filled else space)
                    if count == 0:  # the client said goodbye
                        self._eof = True
                        break
                    filled += count
                    if not incoming.pending:
                        break
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                self._break_off()
                return
            if filled:
                app.buffer_updated(filled)
            # OpenSSL holds the rest of a record only where there was no room for it.
            if not filled or (filled < size and (self._eof or not incoming.pending)):
                break
        if self._outgoing.pending:
            self._inner.write(self._outgoing.read())
            if self._writing_paused and self._inner.get_write_buffer_size() > _MOST_UNREAD_BYTES:
                self.abort()
        if self._eof and not (self._reading_paused or self._closing or self._eof_told):
            self._eof_told = True
            app.eof_received()

    def _decrypt_late(self) -> None:
        if self._app is None:
            return
        try:
            self._decrypt(self._app)
        except Exception:
            self.abort()
            raise

    def _encrypt(self) -> None:
        while self._pieces and not self._writing_paused:
            chunk = self._next_chunk()
            try:
                self._ssl.write(chunk)
            except ssl.SSLError:
                self.abort()
                return
            self._inner.write(self._outgoing.read())

    def _next_chunk(self) -> "bytes | memoryview":
        pieces = self._pieces
        if self._unsent <= _CHUNK_BYTES:
            # One record instead of one for each piece.
            chunk = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._drop_unsent()
            return chunk
        first = pieces.popleft()
        if len(first) > _CHUNK_BYTES:
            view = memoryview(first)
            first = view[:_CHUNK_BYTES]
            pieces.appendleft(view[_CHUNK_BYTES:])
        self._unsent -= len(first)
        return first

    def _send(self) -> None:
        if self._outgoing.pending:
            self._inner.write(self._outgoing.read())

    def _drop_unsent(self) -> None:
        self._pieces.clear()
        self._unsent = 0

    def _break_off(self) -> None:
        """The client's bytes are not TLS any more; OpenSSL has an alert for it."""
        if self._writing_paused:
            self.abort()
            return
        self._closing = True
        self._send()
        self._inner.close()

    def _say_goodbye(self) -> None:
        with contextlib.suppress(ssl.SSLError):  # the client's own is not here yet, and need not come
            self._ssl.unwrap()
        self._send()

    def _end(self) -> None:
        if self._app is not None:
            self._say_goodbye()
        self._inner.close()
