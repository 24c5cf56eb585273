"""Announcements to every process: rejected credentials, pauses, and what was observed of their health.

They are published over Redis, sealed. A process that is not connected at that moment misses them, but finds
out by itself: the app rejects the credential again, upstream throttles again, and the rate is not lent during
a pause.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from flowmate_async.distributed.circuit import Circuit, RedisAwayError
from flowmate_async.distributed.connection import Trouble, driver, redis_errors, trouble_of
from flowmate_async.distributed.keyspace import Keyspace
from flowmate_async.distributed.redis_clock import RedisClock
from flowmate_async.health.records import Sighting
from flowmate_async.stores.encoding import Plaintext
from flowmate_async.system.driver_boundary import DriverBoundary
from flowmate_async.values.secrets import Secret

if TYPE_CHECKING:
    from redis.asyncio import Redis

_KIND = "announcement"
_HEALTH = "health"
_AGAIN_SECONDS = 0.5
_PING_SECONDS = 5.0
_MAX_WAITING = 1000


class Rejected(msgspec.Struct, frozen=True, tag=True):
    """An app rejected the credential with this fingerprint, at this moment of Redis' clock (ms)."""

    username: str
    secret_id: str
    fingerprint: bytes
    at: int


class PauseNews(msgspec.Struct, frozen=True, tag="Paused"):
    """Upstream asked everyone to wait for this many seconds."""

    seconds: float


class _Envelope(msgspec.Struct, frozen=True):
    sender: str
    news: Rejected | PauseNews


class _SeenEnvelope(msgspec.Struct, frozen=True):
    sender: str
    sighting: Sighting


class Announcements:
    """The channel of one upstream's processes. Sending never blocks.

    Args:
        redis: the connection.
        circuit: in front of it.
        redis_clock: Redis' time.
        keyspace: names the channel and seals messages.
        sender: the id of this process, which ignores its own messages.
    """

    def __init__(
        self, redis: "Redis", circuit: Circuit, *, redis_clock: RedisClock, keyspace: Keyspace, sender: str
    ) -> None:
        self._redis = redis
        self._circuit = circuit
        self._redis_clock = redis_clock
        self._keyspace = keyspace
        self._sender = sender
        self._channel = keyspace.of("announcements")
        # A channel of its own: older processes know only two kinds of news.
        self._health_channel = keyspace.of("health")
        self._waiting: asyncio.Queue[Rejected | PauseNews | Sighting] = asyncio.Queue(_MAX_WAITING)
        self._on_sighting: Callable[[Sighting], object] = lambda _sighting: None
        self._on_rejected: Callable[[Rejected], object] = lambda _rejected: None
        self._on_pause: Callable[[float], object] = lambda _seconds: None

    def on_rejected(self, listener: Callable[[Rejected], object]) -> None:
        """Register a callback for announcements of other processes."""
        self._on_rejected = listener

    def on_pause(self, listener: Callable[[float], object]) -> None:
        """Register a callback for announcements of other processes."""
        self._on_pause = listener

    def on_sighting(self, listener: Callable[[Sighting], object]) -> None:
        """Register a callback for what other processes observe of credentials."""
        self._on_sighting = listener

    def seen(self, sighting: Sighting) -> None:
        """Announce what was observed of a credential."""
        self._enqueue(sighting)

    def rejection(self, username: str, secret_id: str, secret: Secret) -> Rejected:
        """Return the announcement that an app has just rejected a credential."""
        fingerprint = self._keyspace.fingerprint(username, secret_id, secret)
        return Rejected(username, secret_id, fingerprint, self._redis_clock.now())

    def rejected(self, news: Rejected) -> None:
        """Announce that an app rejected a credential."""
        self._enqueue(news)

    def paused(self, seconds: float) -> None:
        """Announce that upstream asked everyone to wait."""
        self._enqueue(PauseNews(seconds))

    async def send(self) -> None:
        """Send announcements, until cancelled."""
        while True:
            news = await self._waiting.get()
            with suppress(RedisAwayError):
                await self._publish(news)

    async def listen(self, first: "asyncio.Future[Trouble | None]") -> None:
        """Receive the others' announcements, until cancelled; reconnect whenever the connection breaks.

        Args:
            first: set once it is subscribed, or to the problem with Redis.
        """
        while True:
            trouble = await self._listen_until_broken(first)
            if not first.done():
                first.set_result(trouble)
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _listen_until_broken(self, first: "asyncio.Future[Trouble | None]") -> Trouble:
        with DriverBoundary():
            try:
                async with aclosing(self._redis.pubsub(ignore_subscribe_messages=True)) as channel:
                    async with asyncio.timeout(_PING_SECONDS):
                        await channel.subscribe(self._channel, self._health_channel)
                        # Redis answers each, or says that the subscription is not permitted.
                        await channel.get_message(timeout=_PING_SECONDS)
                        await channel.get_message(timeout=_PING_SECONDS)
                    if not first.done():
                        first.set_result(None)
                    await self._receive(channel)
            except redis_errors() as error:
                return trouble_of(error)

    async def _receive(self, channel: Any) -> NoReturn:
        """Forward what arrives; unanswered pings reveal a dead connection."""
        silent = False
        while True:
            message = await channel.get_message(timeout=_PING_SECONDS)
            if message is not None and message["type"] == "message":
                self._open(message["channel"], message["data"])
            elif message is None and silent:
                raise driver("redis.exceptions").ConnectionError("no answer to a ping")
            silent = message is None
            if silent:
                await channel.ping()

    def _open(self, channel: bytes, sealed: bytes) -> None:
        if channel == self._health_channel.encode():
            self._open_sighting(sealed)
            return
        opened = self._keyspace.open(sealed, kind=_KIND)
        if opened is None:
            return
        envelope = msgspec.msgpack.decode(opened.data, type=_Envelope)
        if envelope.sender == self._sender:
            return
        match envelope.news:
            case Rejected():
                self._on_rejected(envelope.news)
            case PauseNews(seconds):
                self._on_pause(seconds)

    def _open_sighting(self, sealed: bytes) -> None:
        opened = self._keyspace.open(sealed, kind=_HEALTH)
        if opened is None:
            return
        try:
            envelope = msgspec.msgpack.decode(opened.data, type=_SeenEnvelope)
        except msgspec.ValidationError:
            return  # of a newer version
        if envelope.sender != self._sender:
            self._on_sighting(envelope.sighting)

    def _enqueue(self, news: Rejected | PauseNews | Sighting) -> None:
        with suppress(asyncio.QueueFull):  # a long outage of Redis
            self._waiting.put_nowait(news)

    async def _publish(self, news: Rejected | PauseNews | Sighting) -> None:
        if isinstance(news, Sighting):
            seen = Plaintext(msgspec.msgpack.encode(_SeenEnvelope(self._sender, news)))
            sealed_seen = self._keyspace.seal(seen, kind=_HEALTH)
            await self._circuit.call(lambda: self._redis.publish(self._health_channel, sealed_seen))
            return
        envelope = Plaintext(msgspec.msgpack.encode(_Envelope(self._sender, news)))
        sealed = self._keyspace.seal(envelope, kind=_KIND)
        if isinstance(news, PauseNews):
            name, life = f"{self._keyspace.of('rate')}:pause", max(1, int(news.seconds * 1000))
            await self._circuit.call(lambda: self._redis.set(name, b"1", px=life))
        await self._circuit.call(lambda: self._redis.publish(self._channel, sealed))
