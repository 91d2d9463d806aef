"""HTTP on one connection: h11, with a limit on the time that a request's head may take. Without it,
whoever sends one byte a minute holds a connection for ever, and a few hundred hold all of them.

uvicorn limits the pause between two requests and nothing else (uvicorn/protocols/http/h11_impl.py);
bodies have a limit of their own in safety.py. Imports no torch.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# seconds from a connection's start, or from the first byte of a later request, to the end of the
# head
HEAD_SECONDS = 10.0
TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class TimedH11Protocol(H11Protocol):
    """Closes a connection whose request does not begin in time."""

    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """The clock runs while a head is waited for; what comes of it does not set it back."""
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._clock is None:
            self._clock = self.loop.call_later(HEAD_SECONDS, self._ring)

    def _stop(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _ring(self) -> None:
        self._clock = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.write(TOO_SLOW)
            self.transport.close()
