"""Which messages of a Redis broker a worker takes: shards of this application, and nothing else."""

import base64
import copy
import json

import pytest
import redis as redis_driver
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async import ConfigurationError, StoreKey
from flowmate_async.distributed.envelopes import MAX_MESSAGE_BYTES, is_shard
from flowmate_async.distributed.keyspace import Keyspace
from flowmate_async.distributed.shards import Shard
from flowmate_async.distributed.tasks import Queueing, make_app, publisher
from flowmate_async.distributed.urls import SecretUrl
from flowmate_async.stores.base import Run

from .conftest import KEY

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

NAMES = Keyspace(KEY, namespace="", base_url="https://flowmate.example")
ANOTHER = Keyspace(StoreKey.parse("a5" * 32), namespace="", base_url="https://flowmate.example")
SHARD = Shard(Run(id="run", started_at=0.0, selection="all"), ("ann", "bob"))


@pytest.fixture
def publish(redis):
    """Hand a shard to the broker."""
    return publisher(make_app(SecretUrl(redis.url), NAMES, Queueing()), NAMES)


@pytest.fixture
async def message(redis, publish):
    """A message as Celery writes it."""
    await publish(SHARD)
    with redis_driver.Redis.from_url(redis.url) as raw:
        (queue,) = [name for name in raw.keys("*") if raw.type(name) == b"list"]
        return json.loads(raw.lindex(queue, 0))


def taken(message):
    return is_shard(json.dumps(message).encode(), NAMES)


def with_body(message, **changes):
    """The message with other things to do afterwards."""
    args, kwargs, embed = json.loads(base64.b64decode(message["body"]))
    changed = [changes.pop("args", args), changes.pop("kwargs", kwargs), embed | changes]
    return message | {"body": base64.b64encode(json.dumps(changed).encode()).decode()}


async def test_a_shard_is_taken(message):
    assert taken(message)


async def test_a_shard_of_another_application_is_not(message):
    assert not is_shard(json.dumps(message).encode(), ANOTHER)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("headers", {"compression": "application/x-gzip"}),
        ("headers", {"task": "celery.chain"}),
        ("headers", {"eta": "2040-01-01T00:00:00"}),
        ("properties", {"body_encoding": "none"}),
        ("properties", {"delivery_tag": None}),
        (None, {"content-type": "application/x-python-serialize"}),
        (None, {"content-encoding": "binary"}),
        (None, {"body": "!"}),
        (None, {"body": 7}),
    ],
)
async def test_a_shard_in_another_envelope_is_not(message, part, change):
    changed = copy.deepcopy(message)
    (changed if part is None else changed[part]).update(change)
    assert not taken(changed)


@pytest.mark.parametrize("name", ["callbacks", "errbacks", "chain", "chord"])
async def test_a_shard_with_something_to_do_afterwards_is_not(message, name):
    """Somebody who saw a shard in the broker could make a worker publish anything."""
    assert taken(with_body(message))
    assert not taken(with_body(message, **{name: [{"task": "celery.chain"}]}))


@pytest.mark.parametrize("args", [[], ["x"], ["x", "y"], [7], "x"])
async def test_other_arguments_are_not(message, args):
    assert not taken(with_body(message, args=args))


async def test_a_message_that_is_too_large_is_not(message):
    assert not taken(message | {"padding": "x" * MAX_MESSAGE_BYTES})


@given(st.binary(max_size=200) | st.recursive(st.none(), st.lists).map(lambda v: json.dumps(v).encode()))
def test_anything_else_is_not(rubbish):
    assert not is_shard(rubbish, NAMES)


def test_depth_is_no_way_in():
    assert not is_shard(b"[" * 100_000, NAMES)


async def test_a_shard_that_is_too_large_is_not_published(redis, publish):
    with pytest.raises(ConfigurationError, match="--shard-users"):
        await publish(Shard(SHARD.run, tuple(f"user-{n}@{'x' * 100}" for n in range(50_000))))
    assert redis.keys("*") == []


async def test_a_broker_that_rejects_the_login_is_a_configuration_error(redis):
    url = SecretUrl(redis.url.replace("the-password", "not-the-password"))
    with pytest.raises(ConfigurationError, match="rejects the user name or the password") as caught:
        await publisher(make_app(url, NAMES, Queueing()), NAMES)(SHARD)
    assert "not-the" not in str(caught.value)
