"""Bound what clients of `crossfold serve` can take: time, memory, connections."""

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import cast

import anyio
import h11
from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from .scoring_requests import MAX_BODY, RefusedRequestError

# Bytes of all bodies that are read or predicted at one time: three of the largest.
MAX_BODIES = 3 * MAX_BODY
# Connections at one time; uvicorn answers 503 to the requests of further ones.
MAX_CONNECTIONS = 2000
_OTHER_FILES = 200  # that the process has open
# Seconds that a client may take to send a header, to go on taking a response, and to send a body.
HEADER_PATIENCE = 10
BODY_PATIENCE = 60


def allow_connections() -> int:
    """Let this process open as many connections as the system permits, up to MAX_CONNECTIONS.

    Returns:
        The number. Further connections would end in the system's errors, not in a 503.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + _OTHER_FILES
    permitted = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < permitted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (permitted, hard))
    return permitted - _OTHER_FILES


class LimitedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which also closes connections whose clients don't go on.

    That is: no header is completed, or no part of a response is taken.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to watch a new connection."""
        super().connection_made(cast(asyncio.Transport, transport))
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the watch."""
        self._next_look.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        seen = self.cycle, self.transport.get_write_buffer_size()
        self._next_look = self.loop.call_later(HEADER_PATIENCE, self._close_if_stuck, *seen)

    def _close_if_stuck(self, last: object, last_unsent: int) -> None:
        """Close the connection if its client has done nothing since the last look."""
        unsent = self.transport.get_write_buffer_size()
        idle = self.cycle is last and (self.cycle is None or self.cycle.response_complete)
        if (0 < last_unsent <= unsent) if unsent else idle:
            self.transport.abort()
        else:
            self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP as other errors are answered: with one line of JSON."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # it is answered already
            self.transport.abort()
            return
        content = {"error_code": HTTPStatus.BAD_REQUEST.name, "message": msg}
        headers = [("Content-Type", "application/json"), ("Connection", "close")]
        for event in (
            h11.Response(status_code=HTTPStatus.BAD_REQUEST, headers=headers),
            h11.Data(data=json.dumps(content).encode()),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class BodyReader:
    """Reads bodies of requests, each and all together within a number of bytes.

    Args:
        of_one: the largest body, in bytes.
        of_all: the bytes of all bodies at one time.
    """

    def __init__(self, of_one: int = MAX_BODY, of_all: int = MAX_BODIES) -> None:
        self._of_one = of_one
        self._free = of_all

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Read a request's body, whose bytes count until the end of the block.

        Raises:
            RefusedRequestError: the body is too large, does not arrive in time, or does not fit
                beside those of other requests; the rest is not read.
            ClientDisconnect: the client is gone.
        """
        body = bytearray()
        try:
            await self._read(request, body)
            yield bytes(body)
        finally:
            self._free += len(body)

    async def _read(self, request: Request, body: bytearray) -> None:
        self._require_size(_announced(request))
        try:
            with anyio.fail_after(BODY_PATIENCE):
                async for part in request.stream():
                    self._require_size(len(body) + len(part))
                    self._take(len(part))
                    body += part
        except TimeoutError:
            raise RefusedRequestError(
                HTTPStatus.REQUEST_TIMEOUT, f"send a request within {BODY_PATIENCE} seconds"
            ) from None

    def _require_size(self, num_bytes: int) -> None:
        if num_bytes > self._of_one:
            raise RefusedRequestError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"a request may have {self._of_one} bytes at most",
            )

    def _take(self, num_bytes: int) -> None:
        if num_bytes > self._free:
            raise RefusedRequestError(
                HTTPStatus.SERVICE_UNAVAILABLE, "the server is busy with other requests: try again"
            )
        self._free -= num_bytes


def _announced(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0
