"""Shards: the parts of a job, and their encryption for the broker, which must not read them."""

import base64

import msgspec

from flowmate_async.distributed.keyspace import Keyspace
from flowmate_async.stores.base import Run
from flowmate_async.stores.encoding import Plaintext
from flowmate_async.sync.plan import DeltaPolicy

_KIND = "shard"


class Shard(msgspec.Struct, frozen=True):
    """Some users of a run. Running it twice is harmless: the store has the checkpoints.

    Attributes:
        run: the run they are checkpointed in.
        usernames: the users; never a token or a credential.
        delta: what is fetched again of what was stored before.
    """

    run: Run
    usernames: tuple[str, ...]
    delta: DeltaPolicy = DeltaPolicy(full=True)


def sealed(shard: Shard, keyspace: Keyspace) -> str:
    """Encrypt a shard as text for a broker, which must not see usernames."""
    return base64.b64encode(keyspace.seal(Plaintext(msgspec.msgpack.encode(shard)), kind=_KIND)).decode()


def opened(text: str, keyspace: Keyspace) -> Shard | None:
    """Decrypt a shard; ``None`` if it was not sealed with this key for this upstream."""
    try:
        message = keyspace.open(base64.b64decode(text, validate=True), kind=_KIND)
        return None if message is None else msgspec.msgpack.decode(message.data, type=Shard)
    except (ValueError, msgspec.MsgspecError):
        return None
