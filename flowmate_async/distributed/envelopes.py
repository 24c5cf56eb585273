"""Messages in a Redis broker, and which of them a worker accepts.

Anyone who can write to the broker can put anything there. So a message is checked before Celery unpacks it.
It must be small, uncompressed and one call of the one task, without callbacks, and its shard must be sealed
with this application's key.
"""

import base64
from typing import Any, Literal

import msgspec

from flowmate_async.distributed.keyspace import Keyspace
from flowmate_async.distributed.shards import opened

TASK = "flowmate_async.carry_out"
MAX_MESSAGE_BYTES = 4 * 2**20


class _Headers(msgspec.Struct, frozen=True):
    task: Literal["flowmate_async.carry_out"]
    compression: None = None
    eta: None = None
    group: None = None
    replaced_task_nesting: Literal[0] = 0


class _Properties(msgspec.Struct, frozen=True):
    body_encoding: Literal["base64"]
    delivery_tag: str
    delivery_info: dict[str, Any]


class _Envelope(msgspec.Struct, frozen=True, rename="kebab"):
    body: str
    content_type: Literal["application/json"]
    content_encoding: Literal["utf-8"]
    headers: _Headers
    properties: _Properties


class _Afterwards(msgspec.Struct, frozen=True):
    callbacks: None = None
    errbacks: None = None
    chain: None = None
    chord: None = None


def is_shard(message: bytes, keyspace: Keyspace) -> bool:
    """Return whether a message is one call of the task, with a shard of this application."""
    if len(message) > MAX_MESSAGE_BYTES:
        return False
    try:
        envelope = msgspec.json.decode(message, type=_Envelope)
        body = base64.b64decode(envelope.body, validate=True)
        (text,), _, _ = msgspec.json.decode(body, type=tuple[tuple[str], dict[str, None], _Afterwards])
    except (ValueError, RecursionError):
        return False
    return opened(text, keyspace) is not None
