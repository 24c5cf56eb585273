"""Credentials that one process fetched and others may use: sealed in Redis, gone when they expire."""

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from flowmate_async.coordination import SharedSecret
from flowmate_async.distributed.names import Names
from flowmate_async.error_record import ErrorRecord
from flowmate_async.errors import FlowMateError, StoreError
from flowmate_async.freshness import FreshnessPolicy
from flowmate_async.secrets import Secret, SessionSecret
from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.sealing import Sealed, Sealing

if TYPE_CHECKING:
    from redis.asyncio import Redis

_UNFORCED, _FORCED = b"=", b"+"
"""How a credential's record begins, by how it was asked for; it goes on with 32 bytes of fingerprint."""

_FAILURE_SECONDS = 5.0

_TAKE_BACK = """
local held = redis.call('GET', KEYS[1])
if held and string.sub(held, 2, 33) ~= ARGV[1] then return 0 end
if redis.call('GET', KEYS[2]) == ARGV[1] then return 1 end
if held then redis.call('DEL', KEYS[1], KEYS[2]) end
return 0
"""
"""Whether upstream is known to have no other than the rejected value; if not, that one is deleted.

Once a process was answered with another one, nothing is known of an earlier one any more.
"""


class Answers(msgspec.Struct, frozen=True):
    """What processes were answered by upstream: the last credential, and that asking failed since.

    Attributes:
        credential: as it is in Redis; tells one answer from another.
        failure: the same.
        forced: whether the credential was asked for since an app had rejected one.
        secret: the credential, if there is one.
        error: the failure, if there is one.
    """

    credential: bytes | None = None
    failure: bytes | None = None
    forced: bool = False
    secret: SharedSecret | None = None
    error: FlowMateError | None = None


class _Record(msgspec.Struct, frozen=True, array_like=True):
    run_id: str
    data: bytes
    fingerprint: bytes


class SharedCache:
    """Answers by secret.

    A record is the fingerprint of what apps are presented, then the sealed credential. Who fetched it and
    when is authenticated with it.

    Args:
        redis: the connection.
        names: what records are called.
        key: the application's key.
        base_url: FlowMate's.
        freshness: how long credentials without an expiry are used.
        wall: seconds since the Unix epoch.
    """

    def __init__(
        self,
        redis: "Redis",
        names: Names,
        *,
        key: StoreKey,
        base_url: str,
        freshness: FreshnessPolicy,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._names = names
        self._sealing = Sealing(key, store_id=f"redis {names.prefix}", origin=base_url)
        self._freshness = freshness
        self._wall = wall
        self._process = os.urandom(8).hex()
        self._take_back: Any = redis.register_script(_TAKE_BACK)

    async def read(self, username: str, secret_id: str) -> Answers:
        """The last answers; what does not open is as if it were not there.

        Raises:
            RedisError: Redis is away.
        """
        found: Any = await self._redis.mget(self._keys("answer", "failure", username, secret_id))
        credential, failure = found
        return Answers(
            credential,
            failure,
            credential is not None and credential[:1] == _FORCED,
            None if credential is None else self._credential(username, secret_id, credential),
            None if failure is None else self._failure(failure),
        )

    async def put(self, username: str, secret_id: str, secret: Secret, *, forced: bool) -> None:
        """Let others use a credential for as long as it is valid.

        Args:
            username: the user.
            secret_id: the secret.
            secret: what upstream answered.
            forced: whether it was asked for since an app had rejected one.

        Raises:
            RedisError: Redis is away.
        """
        seconds = self._life(secret)
        if seconds <= 0:
            return
        sealed = self._seal(username, secret)
        if sealed is None:
            return
        record = msgspec.msgpack.encode(_Record(sealed.run_id, sealed.data, sealed.fingerprint))
        presented = self._names.fingerprint(username, secret_id, secret)
        answer, failure = self._keys("answer", "failure", username, secret_id)
        async with self._redis.pipeline() as both:
            both.set(
                answer,
                (_FORCED if forced else _UNFORCED) + presented + record,
                px=max(1, int(seconds * 1000)),
            )
            both.delete(failure)
            await both.execute()

    async def put_failure(self, username: str, secret_id: str, error: FlowMateError) -> None:
        """Let those who wait for the same answer share a failure. What is still valid may be used as before.

        Raises:
            RedisError: Redis is away.
        """
        record = msgspec.msgpack.encode(ErrorRecord.of(error))
        name = self._names.of("failure", username, secret_id)
        await self._redis.set(name, self._names.seal(record, kind="failure"), px=int(_FAILURE_SECONDS * 1000))

    async def take_back(self, username: str, secret_id: str, rejected: Secret) -> bool:
        """Drop a credential that an app rejected; whether upstream is known to have no other.

        Raises:
            RedisError: Redis is away.
        """
        keys = self._keys("answer", "rejected", username, secret_id)
        fingerprint = self._names.fingerprint(username, secret_id, rejected)
        return bool(await self._take_back(keys=keys, args=[fingerprint]))

    async def confirm(self, username: str, secret_id: str, rejected: Secret, *, seconds: float) -> None:
        """Let it be known that upstream has no other than this rejected one.

        Raises:
            RedisError: Redis is away.
        """
        fingerprint = self._names.fingerprint(username, secret_id, rejected)
        name = self._names.of("rejected", username, secret_id)
        await self._redis.set(name, fingerprint, px=max(1, int(seconds * 1000)))

    def _keys(self, one: str, other: str, username: str, secret_id: str) -> list[str]:
        return [self._names.of(kind, username, secret_id) for kind in (one, other)]

    def _life(self, secret: Secret) -> float:
        if secret.expires_at is not None:
            return secret.expires_at.timestamp() - self._freshness.skew_seconds - self._wall()
        if isinstance(secret, SessionSecret):
            return self._freshness.session_ttl_seconds
        return self._freshness.static_ttl_seconds

    def _seal(self, username: str, secret: Secret) -> Sealed | None:
        # The moment is part of what is authenticated; whole seconds, so that a subkey serves many records.
        fetched = f"{self._process}:{int(self._wall())}"
        try:
            return self._sealing.seal_unless_same(username, secret, run_id=fetched, stored=None)
        except StoreError:  # it cannot be encoded, so it is not shared
            return None

    def _credential(self, username: str, secret_id: str, raw: bytes) -> SharedSecret | None:
        try:
            record = msgspec.msgpack.decode(raw[33:], type=_Record)
            sealed = Sealed(record.run_id, record.data, record.fingerprint)
            secret = self._sealing.open(username, secret_id, sealed)
            age = max(0.0, self._wall() - int(record.run_id.partition(":")[2]))
        except (StoreError, msgspec.MsgspecError, ValueError):
            return None
        return SharedSecret(secret, age, newest=False)

    def _failure(self, raw: bytes) -> FlowMateError | None:
        record = self._names.open(raw, kind="failure")
        return None if record is None else msgspec.msgpack.decode(record, type=ErrorRecord).restored()
