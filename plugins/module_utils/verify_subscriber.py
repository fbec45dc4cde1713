# Copyright: policyfleet maintainers
# Apache License 2.0 (see LICENSE)
"""One OPAL subscription on one worker, over a connection that this worker has accepted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
import uuid
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect  # type: ignore[import-not-found]
from websockets.exceptions import ConnectionClosed  # type: ignore[import-not-found]

OnEvent = Callable[[int, str, Any, float], None]
"""Told of each event: the worker's pid, the topic, the data, and when it came (seconds since the epoch)."""


GOODBYE_SECONDS = 2
"""How long the server may take to end a subscription, in seconds."""


class Refused(Exception):
    """The server did not take the subscription."""


class Subscriber:
    """A websocket client of OPAL's pub/sub (JSON-RPC both ways) on one worker process."""

    def __init__(self, pid: int, on_event: OnEvent) -> None:
        """Remember whose subscriber this is, and whom to tell of events."""
        self.pid = pid
        self.closed = ""
        self._on_event = on_event
        self._id = uuid.uuid4().hex
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._connection: ClientConnection | None = None
        self._reading: asyncio.Task[None] | None = None

    async def open(self, sock: socket.socket, host: str, token: str, topics: list[str], seconds: float) -> None:
        """Subscribe to the topics over a connected socket.

        Raises ``Refused`` where the server says no; OSError, TimeoutError or websockets' errors where it does not
        answer within so many seconds.
        """
        self._connection = await connect(
            f"ws://{host}/ws",
            sock=sock,
            additional_headers={"Authorization": f"Bearer {token}"} if token else None,
            open_timeout=seconds,
            ping_interval=None,
            compression=None,
            max_size=None,
            proxy=None,
        )
        self._reading = asyncio.create_task(self._read())
        answer = await self._call("subscribe", {"topics": topics}, seconds)
        # The answer's value comes as the type or as its text, depending on the server's version.
        if str(answer).lower() != "true":
            raise Refused("the subscription was refused: the token may not allow these topics")

    async def publish(self, topic: str, data: Any) -> None:
        """Publish through this very worker, without waiting until it is done."""
        await self._send_request("publish", {"topics": [topic], "data": data, "sync": False})

    async def close(self) -> None:
        """End the subscription so that the server ends it first.

        A client that leaves by itself makes OPAL-server log an error with a long traceback (it closes what is
        already closed), and verification must not fill the very journal that it tells people to read. A message
        that cannot be read makes it say goodbye in one line instead.
        """
        if self._connection is None:
            return
        with contextlib.suppress(Exception):
            await self._connection.send("goodbye")
            if self._reading:
                await asyncio.wait([self._reading], timeout=GOODBYE_SECONDS)
        if self._reading:
            self._reading.cancel()
        await self._connection.close()

    async def _send_request(self, method: str, arguments: dict[str, Any]) -> str:
        call = uuid.uuid4().hex
        if self._connection is None:
            raise Refused("there is no connection")
        await self._connection.send(
            json.dumps({"request": {"method": method, "arguments": arguments, "call_id": call}})
        )
        return call

    async def _call(self, method: str, arguments: dict[str, Any], seconds: float) -> Any:
        call = await self._send_request(method, arguments)
        answer = self._answers[call] = asyncio.get_running_loop().create_future()
        return await asyncio.wait_for(answer, seconds)

    async def _read(self) -> None:
        assert self._connection is not None
        try:
            async for text in self._connection:
                await self._handle(json.loads(text), time.time())
        except ConnectionClosed:
            pass
        self.closed = self.closed or time.strftime("%H:%M:%S")
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(Refused("the worker closed the connection"))

    async def _handle(self, message: dict[str, Any], now: float) -> None:
        response = message.get("response")
        if response:
            answer = self._answers.pop(response.get("call_id"), None)
            if answer and not answer.done():
                answer.set_result(response.get("result"))
        request = message.get("request")
        if request:
            await self._serve(request, now)

    async def _serve(self, request: dict[str, Any], now: float) -> None:
        """Answer a call of the server: it waits for the answer before it goes on."""
        method, arguments = request.get("method"), request.get("arguments") or {}
        result: Any = None
        if method == "notify":
            self._on_event(self.pid, arguments["subscription"]["topic"], arguments.get("data"), now)
        elif method == "_get_channel_id_":
            result = self._id
        elif method in ("_ping_", "ping"):
            result = "pong"
        answer = {"result": str(result), "result_type": "str", "call_id": request.get("call_id")}
        assert self._connection is not None
        await self._connection.send(json.dumps({"response": answer}))
