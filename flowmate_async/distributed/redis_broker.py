"""A Redis as Celery's broker, for workers: bounded messages, and unacknowledged ones by Redis' own clock.

Kombu's transport stamps a taken message with the worker's clock, looks only every 100 seconds for messages of
vanished workers, and reads and unpacks anything in the queue. Imported by workers only.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from queue import Empty
from typing import Any

import redis
from redis import exceptions
from redis._parsers import _RESP2Parser, _RESP3Parser
from redis._parsers.socket import SocketBuffer

from flowmate_async.distributed.envelopes import MAX_MESSAGE_BYTES

kombu_redis: Any = import_module("kombu.transport.redis")  # untyped
virtual: Any = import_module("kombu.transport.virtual")

RESTORE_SECONDS = 1.0
"""How often a worker looks for messages of vanished workers."""

_LOCK_SECONDS = 10
_log = logging.getLogger("flowmate_async")


class _BoundedBuffer(SocketBuffer):
    """Refuses an oversized reply by its length, before reading it."""

    def read(self, length: int, *args: Any, **options: Any) -> bytes:
        if length > 2 * MAX_MESSAGE_BYTES:
            raise exceptions.ConnectionError(f"a message of {length:,} bytes was refused")
        return bytes(super().read(length, *args, **options))


def _bounded_parser(parser: type[Any]) -> type[Any]:
    python_parser = _RESP3Parser if issubclass(parser, _RESP3Parser) else _RESP2Parser

    class BoundedParser(python_parser):  # type: ignore[misc, valid-type]
        def on_connect(self, connection: Any) -> None:
            super().on_connect(connection)
            self._buffer = _BoundedBuffer(self._sock, self.socket_read_size, connection.socket_timeout)

    return BoundedParser


def _bounded(connection: type[Any]) -> type[Any]:
    class BoundedConnection(connection):  # type: ignore[misc]
        def set_parser(self, parser_class: type[Any]) -> None:
            super().set_parser(_bounded_parser(parser_class))

    return BoundedConnection


class _QoS(kombu_redis.QoS):  # type: ignore[misc]
    """Unacknowledged messages, by the time they were taken on Redis' clock."""

    def append(self, message: Any, delivery_tag: str) -> None:
        info = message.delivery_info
        record = kombu_redis.dumps([message._raw, info["exchange"], info["routing_key"]])  # noqa: SLF001 - as kombu does
        with self.channel.conn_or_acquire() as client:
            taken = {delivery_tag: _now(client)}
            pipe = client.pipeline()
            pipe.zadd(self.unacked_index_key, taken).hset(self.unacked_key, delivery_tag, record).execute()
        virtual.QoS.append(self, message, delivery_tag)

    def restore_visible(self, *_: object, **__: object) -> None:
        """Leave that to :class:`Restorer`: this worker's loop is blocked while it runs a shard."""

    def restore_vanished(self) -> None:
        """Requeue messages that were taken before the visibility timeout and not acknowledged."""
        with self.channel.conn_or_acquire() as client:
            latest = _now(client) - self.visibility_timeout
            with (
                suppress(kombu_redis.MutexHeld),
                kombu_redis.Mutex(client, self.unacked_mutex_key, _LOCK_SECONDS),
            ):
                for tag in client.zrange(self.unacked_index_key, 0, latest, byscore=True):
                    self._restore_or_drop(tag, client)

    def _restore_or_drop(self, tag: bytes, client: Any) -> None:
        unacked = f"{self.channel.global_keyprefix}{self.unacked_key}"
        small = client.execute_command("HSTRLEN", unacked, tag) <= 2 * MAX_MESSAGE_BYTES
        with suppress(ValueError, TypeError):
            if small:
                self.restore_by_tag(tag, client)
                return
        # No message that a worker took looks like that; it would block all others.
        _log.warning("an unacknowledged message that is not a shard of this application was dropped")
        self._remove_from_indices(tag).execute()


class _Channel(kombu_redis.Channel):  # type: ignore[misc]
    QoS = _QoS
    connection_class = _bounded(redis.Connection)
    connection_class_ssl = _bounded(redis.SSLConnection)

    def _get_client(self) -> Any:
        client = super()._get_client()
        accepts = self.connection.accepts

        class Client(client.func):  # type: ignore[misc, name-defined]
            def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
                found = super().parse_response(connection, command_name, **options)
                if command_name == "BRPOP" and found and not accepts(found[1]):
                    _log.warning("a message that is not a shard of this application was dropped")
                    raise Empty
                return found

        return partial(Client, **client.keywords)


def transport(accepts: Callable[[bytes], bool]) -> type[Any]:
    """Return the transport for workers.

    Args:
        accepts: returns whether to take a message; others are dropped.
    """
    return type(
        "Transport", (kombu_redis.Transport,), {"Channel": _Channel, "accepts": staticmethod(accepts)}
    )


class Restorer:
    """A thread that requeues messages of vanished workers; used as a context manager.

    Args:
        connect: creates a connection to the broker, with :func:`transport`.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="restorer", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(_LOCK_SECONDS)

    def _run(self) -> None:
        while not self._ended.wait(RESTORE_SECONDS):
            # The worker itself meets the same broker problem and reports it.
            with suppress(Exception), self._connect() as connection:
                channel = connection.default_channel
                while not self._ended.wait(RESTORE_SECONDS):
                    channel.qos.restore_vanished()


def _now(client: Any) -> float:
    seconds, microseconds = client.time()
    return float(seconds + microseconds / 1e6)
