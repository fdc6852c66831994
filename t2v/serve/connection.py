"""Connections that do not wait for slow clients, and not for too many."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

ENOUGH = 2**16  # bytes that a body has to bring within the patience, or end


class Connection(H11Protocol):
    """A connection that is cut where its client sends headers or a body, or takes answers, slowly.

    uvicorn waits without end for the rest of a request, and for a client that does not read.
    """

    patience, most = 30.0, 256  # seconds, connections; of a server: see `connection_of`

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._since = 0
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        if len(self.connections) > self.most:
            transport.abort()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._since += len(data)
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._watch()
        else:
            self._let_be()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self.loop.call_later(self.patience, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        self._let_be()
        if self._writing is not None:
            self._writing.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self._reading is None:
            self._since = 0
            self._reading = self.loop.call_later(self.patience, self._look)

    def _let_be(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _look(self) -> None:
        self._reading = None
        if self._since < ENOUGH and not self.flow.read_paused:
            self.transport.abort()
        else:
            self._watch()


def connection_of(patience: float, most: int) -> type[Connection]:
    """The class of the connections of a server."""
    return type("OwnConnection", (Connection,), {"patience": patience, "most": most})
