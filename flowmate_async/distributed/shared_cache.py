"""The shared cache: answers that one process got from upstream, sealed in Redis until they expire.

A record says when and in which flight it was answered, and how it was requested. All of that is sealed with
it and bound to its user and secret. So a record that was put back or moved is older than the request or does
not open.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import msgspec

from flowmate_async.contract.freshness import FreshnessPolicy, timeline
from flowmate_async.contract.known_secrets import SecretFacts
from flowmate_async.distributed.circuit import Circuit
from flowmate_async.distributed.keyspace import Keyspace
from flowmate_async.distributed.redis_clock import RedisClock
from flowmate_async.engine.coordination import SharedSecret
from flowmate_async.errors import FlowMateError, StoreError
from flowmate_async.redaction import Redacted
from flowmate_async.stores.encoding import Plaintext, encode_secret, secret_of
from flowmate_async.values.error_record import ErrorRecord
from flowmate_async.values.secrets import Secret

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")

_FINGERPRINT_BYTES = 32
_FAILURE_SECONDS = 5.0
_FACTS_SECONDS = 3600.0

_SET = """
local time = redis.call('TIME')
if time[1] * 1000 + math.floor(time[2] / 1000) > tonumber(ARGV[3]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if KEYS[2] then redis.call('DEL', KEYS[2]) end
return 1
"""
"""Set the first key and delete the second, unless Redis hung and a newer value may exist by now."""

_TAKE_BACK = """
local held = redis.call('GET', KEYS[1])
if held and string.sub(held, 1, 32) ~= ARGV[1] then return 0 end
if redis.call('GET', KEYS[2]) == ARGV[1] then return 1 end
if held then redis.call('DEL', KEYS[1], KEYS[2]) end
return 0
"""
"""Return whether upstream is known to have only the rejected value; otherwise delete that value.

Once a process got another value, nothing is known about an earlier one.
"""


class CachedAnswer(msgspec.Struct, Generic[T], frozen=True):
    """One answer from upstream.

    Attributes:
        what: a credential or a failure.
        landed: when upstream had answered, in milliseconds of Redis' clock.
        flight: the flight that got the answer.
        forced: whether it was requested because an app had rejected a credential.
        fingerprint: of the credential.
    """

    what: T
    landed: int
    flight: str
    forced: bool = False
    fingerprint: bytes = b""


class CachedAnswers(msgspec.Struct, frozen=True):
    """The latest answers from upstream: the last credential, and any failure since.

    Attributes:
        now: when this was read, in milliseconds of Redis' clock.
        credential: the credential, if there is one.
        failure: the failure, if there is one.
        facts: what upstream showed about the secret to any of its owners.
    """

    now: int
    credential: CachedAnswer[SharedSecret] | None = None
    failure: CachedAnswer[FlowMateError] | None = None
    facts: SecretFacts | None = None


class _Credential(Redacted, frozen=True, array_like=True):
    landed: int
    flight: str
    forced: bool
    wall: float
    data: bytes

    __shown__: ClassVar[tuple[str, ...]] = ("landed", "flight", "forced", "wall")


class _Failure(msgspec.Struct, frozen=True, array_like=True):
    landed: int
    flight: str
    error: ErrorRecord


class SharedCache:
    """Answers by secret.

    A credential's record is the fingerprint of what apps are presented, followed by the sealed data.

    Args:
        redis: the connection.
        circuit: in front of it.
        redis_clock: Redis' time.
        keyspace: names and seals the records.
        freshness: how long credentials without an expiry are used.
        wall: seconds since the Unix epoch.
    """

    def __init__(
        self,
        redis: "Redis",
        circuit: Circuit,
        *,
        redis_clock: RedisClock,
        keyspace: Keyspace,
        freshness: FreshnessPolicy,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._circuit = circuit
        self._redis_clock = redis_clock
        self._keyspace = keyspace
        self._freshness = freshness
        self._wall = wall
        self._set: Any = redis.register_script(_SET)
        self._take_back: Any = redis.register_script(_TAKE_BACK)

    async def read(self, username: str, secret_id: str) -> CachedAnswers:
        """Return the latest answers. A record that cannot be decrypted counts as missing.

        Raises:
            RedisAwayError: Redis is unavailable.
        """
        answer, failure = self._keys("answer", "failure", username, secret_id)
        facts = self._facts_key(secret_id)
        both: Any = self._redis.pipeline(transaction=False)
        told, found = await self._circuit.call(both.time().mget([answer, failure, facts]).execute)
        now = _milliseconds(told)
        return CachedAnswers(
            now,
            None if found[0] is None else self._credential(username, secret_id, answer, found[0], now),
            None if found[1] is None else self._failure(failure, found[1]),
            None if found[2] is None else self._facts(facts, found[2]),
        )

    async def put(self, username: str, secret_id: str, secret: Secret, *, forced: bool, flight: str) -> int:
        """Share a credential with other processes for as long as it is valid.

        Args:
            username: the user.
            secret_id: the secret.
            secret: upstream's answer.
            forced: whether it was requested because an app had rejected a credential.
            flight: the flight that got the answer.

        Returns:
            The time it landed, in milliseconds of Redis' clock; 0 if others cannot use it.

        Raises:
            RedisAwayError: Redis is unavailable.
        """
        life = self._life(secret)
        if life <= 0:
            return 0
        try:
            plaintext = encode_secret(username, secret)
        except StoreError:  # it cannot be encoded, so it is not shared
            return 0
        landed = await self._now()
        answer, failure = self._keys("answer", "failure", username, secret_id)
        record = Plaintext(
            msgspec.msgpack.encode(_Credential(landed, flight, forced, self._wall(), plaintext.data))
        )
        value = self._keyspace.fingerprint(username, secret_id, secret) + self._keyspace.seal(
            record, kind=answer
        )
        await self._write([answer, failure], value, life)
        return landed

    async def put_failure(self, username: str, secret_id: str, error: FlowMateError, *, flight: str) -> None:
        """Share a failure with processes that wait for the same answer. A valid credential stays usable.

        Raises:
            RedisAwayError: Redis is unavailable.
        """
        name = self._keyspace.of("failure", username, secret_id)
        record = Plaintext(msgspec.msgpack.encode(_Failure(await self._now(), flight, ErrorRecord.of(error))))
        await self._write([name], self._keyspace.seal(record, kind=name), _FAILURE_SECONDS)

    async def put_facts(self, secret_id: str, facts: SecretFacts) -> None:
        """Share what upstream showed about a secret with all processes, for all of its owners.

        Raises:
            RedisAwayError: Redis is unavailable.
        """
        name = self._facts_key(secret_id)
        value = self._keyspace.seal(Plaintext(msgspec.msgpack.encode(facts)), kind=name)
        await self._write([name], value, _FACTS_SECONDS)

    async def take_back(self, username: str, secret_id: str, rejected: Secret) -> bool:
        """Drop a credential that an app rejected. Return whether upstream is known to have no other one.

        Raises:
            RedisAwayError: Redis is unavailable.
        """
        keys = self._keys("answer", "rejected", username, secret_id)
        fingerprint = self._keyspace.fingerprint(username, secret_id, rejected)
        return bool(await self._circuit.call(lambda: self._take_back(keys=keys, args=[fingerprint])))

    async def confirm(self, username: str, secret_id: str, rejected: Secret, *, seconds: float) -> None:
        """Record that upstream has only this rejected credential.

        Raises:
            RedisAwayError: Redis is unavailable.
        """
        fingerprint = self._keyspace.fingerprint(username, secret_id, rejected)
        await self._write([self._keyspace.of("rejected", username, secret_id)], fingerprint, seconds)

    async def _write(self, keys: list[str], value: bytes, seconds: float) -> None:
        args = [value, max(1, int(seconds * 1000)), self._redis_clock.deadline()]
        await self._circuit.call(partial(self._set, keys=keys, args=args))

    async def _now(self) -> int:
        now = _milliseconds(await self._circuit.call(self._redis.time))
        self._redis_clock.set(now)
        return now

    def _keys(self, one: str, other: str, username: str, secret_id: str) -> list[str]:
        return [self._keyspace.of(kind, username, secret_id) for kind in (one, other)]

    def _facts_key(self, secret_id: str) -> str:
        return self._keyspace.of("facts", secret_id.lower())

    def _life(self, secret: Secret) -> float:
        """Return for how many seconds others may use a credential that was just fetched."""
        wall = self._wall()
        when = timeline(secret, wall=wall, monotonic=0.0, jitter=0.0, policy=self._freshness)
        left = when.remaining_seconds(wall=wall, monotonic=0.0)
        return self._freshness.static_ttl_seconds if left == float("inf") else left

    def _credential(
        self, username: str, secret_id: str, name: str, raw: bytes, now: int
    ) -> CachedAnswer[SharedSecret] | None:
        opened = self._keyspace.open(raw[_FINGERPRINT_BYTES:], kind=name)
        if opened is None:
            return None
        try:
            record = msgspec.msgpack.decode(opened.data, type=_Credential)
        except msgspec.MsgspecError:
            return None
        secret = secret_of(Plaintext(record.data))
        fingerprint = None if secret is None else self._keyspace.fingerprint(username, secret_id, secret)
        if secret is None or fingerprint != raw[:_FINGERPRINT_BYTES]:
            return None
        # The greater age by the two clocks, since either clock may be wrong.
        age = max(0.0, self._wall() - record.wall, (now - record.landed) / 1000)
        shared = SharedSecret(secret, age, newest=False)
        return CachedAnswer(shared, record.landed, record.flight, record.forced, fingerprint)

    def _facts(self, name: str, raw: bytes) -> SecretFacts | None:
        opened = self._keyspace.open(raw, kind=name)
        try:
            return None if opened is None else msgspec.msgpack.decode(opened.data, type=SecretFacts)
        except msgspec.MsgspecError:
            return None

    def _failure(self, name: str, raw: bytes) -> CachedAnswer[FlowMateError] | None:
        opened = self._keyspace.open(raw, kind=name)
        if opened is None:
            return None
        try:
            record = msgspec.msgpack.decode(opened.data, type=_Failure)
        except msgspec.MsgspecError:
            return None
        return CachedAnswer(record.error.restored(), record.landed, record.flight)


def _milliseconds(told: tuple[int, int]) -> int:
    seconds, microseconds = told
    return seconds * 1000 + microseconds // 1000
