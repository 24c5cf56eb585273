"""A receiver of webhooks over real sockets that verifies every signature."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from flowmate_async.health.webhook import SigningKey, verify

KEY_TEXT = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = SigningKey.parse(KEY_TEXT)


class Receiver:
    """Notes what it takes; ``answers`` are the statuses that it gives first, instead of taking anything."""

    def __init__(self) -> None:
        self.url = ""
        self.taken: dict[str, dict] = {}
        self.repeated = 0
        self.answers: list[int] = []
        self.clock = time.time

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        assert request.query["token"] == "of-the-url"
        assert headers["content-type"] == "application/json"
        if not verify(KEY, headers, body, now=self.clock()):
            return web.Response(status=401)
        if self.answers:
            return web.Response(status=self.answers.pop(0), text="internal-words-of-the-receiver")
        self.repeated += headers["webhook-id"] in self.taken
        self.taken[headers["webhook-id"]] = json.loads(body)
        return web.Response(status=204)

    @property
    def told(self) -> list[tuple[str, str]]:
        """User and type of each message, in order."""
        return [(message["data"]["username"], message["type"]) for message in self.taken.values()]

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Receiver"]:
        app = web.Application()
        app.router.add_post("/hooks/flowmate", self._take)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}/hooks/flowmate?token=of-the-url"
        try:
            yield self
        finally:
            await runner.cleanup()
