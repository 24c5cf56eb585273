"""What every process is to hear at once: that an app rejected a credential, that upstream asked to wait.

Published over Redis, sealed. Whoever is not connected at that moment misses it, and finds out for itself: the
app rejects the credential again, upstream throttles again, and the rate is not lent during a pause.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

import msgspec

from flowmate_async.distributed.connection import redis_errors
from flowmate_async.distributed.names import Names
from flowmate_async.secrets import Secret

if TYPE_CHECKING:
    from redis.asyncio import Redis

_KIND = "announcement"
_AGAIN_SECONDS = 0.5
_MOST_WAITING = 1000


class Rejected(msgspec.Struct, frozen=True, tag=True):
    """An app rejected the credential with this fingerprint."""

    username: str
    secret_id: str
    fingerprint: bytes


class Paused(msgspec.Struct, frozen=True, tag=True):
    """Upstream asked everybody to wait for so many seconds."""

    seconds: float


class _Letter(msgspec.Struct, frozen=True):
    sender: str
    news: Rejected | Paused


class Announcements:
    """The channel of one upstream's processes. Sending never waits.

    Args:
        redis: the connection.
        names: what the channel is called, and the seal.
        sender: this process, which does not hear itself.
    """

    def __init__(self, redis: "Redis", names: Names, *, sender: str) -> None:
        self._redis = redis
        self._names = names
        self._sender = sender
        self._channel = names.of("announcements")
        self._waiting: asyncio.Queue[Rejected | Paused] = asyncio.Queue(_MOST_WAITING)
        self._on_rejected: Callable[[Rejected], object] = lambda _rejected: None
        self._on_pause: Callable[[float], object] = lambda _seconds: None

    def on_rejected(self, listener: Callable[[Rejected], object]) -> None:
        """Have this called with what others announce."""
        self._on_rejected = listener

    def on_pause(self, listener: Callable[[float], object]) -> None:
        """Have this called with what others announce."""
        self._on_pause = listener

    def rejected(self, username: str, secret_id: str, secret: Secret) -> None:
        """Announce that an app rejected a credential."""
        self._post(Rejected(username, secret_id, self._names.fingerprint(username, secret_id, secret)))

    def paused(self, seconds: float) -> None:
        """Announce that upstream asked everybody to wait."""
        self._post(Paused(seconds))

    async def send(self) -> None:
        """Send what is announced, until cancelled."""
        while True:
            news = await self._waiting.get()
            with suppress(*redis_errors()):
                await self._publish(news)

    async def listen(self, heard: asyncio.Event) -> None:
        """Hear what others announce, until cancelled; connects again whenever the connection breaks.

        Args:
            heard: set once it listens, or when Redis is away.
        """
        while True:
            with suppress(*redis_errors()):
                async with aclosing(self._redis.pubsub(ignore_subscribe_messages=True)) as channel:
                    await channel.subscribe(self._channel)
                    heard.set()
                    await self._hear(channel)
            heard.set()
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _hear(self, channel: Any) -> None:
        while True:
            message = await channel.get_message(timeout=None)
            if message is not None:
                self._open(message["data"])

    def _open(self, sealed: bytes) -> None:
        opened = self._names.open(sealed, kind=_KIND)
        if opened is None:
            return
        letter = msgspec.msgpack.decode(opened, type=_Letter)
        if letter.sender == self._sender:
            return
        match letter.news:
            case Rejected():
                self._on_rejected(letter.news)
            case Paused(seconds):
                self._on_pause(seconds)

    def _post(self, news: Rejected | Paused) -> None:
        with suppress(asyncio.QueueFull):  # Redis has been away for long
            self._waiting.put_nowait(news)

    async def _publish(self, news: Rejected | Paused) -> None:
        sealed = self._names.seal(msgspec.msgpack.encode(_Letter(self._sender, news)), kind=_KIND)
        if isinstance(news, Paused):
            name = f"{self._names.of('rate')}:pause"
            await self._redis.set(name, b"1", px=max(1, int(news.seconds * 1000)))
        await self._redis.publish(self._channel, sealed)
