"""Notices leave the outbox when they were taken: in order for each credential, at least once."""

import json
from itertools import pairwise

import pytest

from flowmate_async.errors import ConfigurationError
from flowmate_async.health import Credential, Health, HealthState, Notice, Reason
from flowmate_async.integrations.webhook import Webhook
from flowmate_async.stores.memory import MemoryStore
from flowmate_async.sync.delivery import NotDeliveredError, deliver
from tests.health.receiver import KEY_TEXT, Receiver

pytestmark = pytest.mark.anyio


class Patient:
    """A clock that does not wait."""

    def __init__(self):
        self.waited = []

    async def sleep(self, seconds):
        self.waited.append(seconds)


def notice(number, user="ann", kind="credential.broken"):
    return Notice(
        id=f"msg_{number}",
        type=kind,
        at=1_790_000_000.0 + number,
        credential=Credential(username=user, secret_id="a" * 24, type="API_KEY"),
        health=Health(HealthState.BROKEN, Reason.REJECTED, 1_789_000_000.0),
    )


async def outbox(*notices):
    store = MemoryStore()
    await store.put_health([], notices)
    return store


class Taking:
    """Accepts each message, unless told not to."""

    def __init__(self, *, refuses=(), dies_after=None):
        self.ids, self.refuses, self.dies_after = [], set(refuses), dies_after

    async def send(self, message):
        data = json.loads(message.body)["data"]
        if data.get("id") in self.refuses:
            raise NotDeliveredError("no", retry=False)
        self.ids.append(message.id)
        if self.dies_after == len(self.ids):
            raise KeyboardInterrupt


async def test_everything_is_delivered_in_order():
    store, taking = await outbox(*(notice(number) for number in range(5))), Taking()
    done = await deliver(store, taking, clock=Patient())
    assert (done.delivered, done.waiting, done.problem) == (5, 0, "")
    assert taking.ids == [f"msg_{number}" for number in range(5)]
    assert await store.notices(10) == []


async def test_what_follows_an_undelivered_change_of_the_same_credential_waits():
    store = await outbox(notice(1), notice(2), notice(3, "bob"), notice(4))
    taking = Taking(refuses=["msg_2"])
    done = await deliver(store, taking, clock=Patient())
    assert (done.delivered, done.waiting, done.problem) == (2, 2, "no")
    assert taking.ids == ["msg_1", "msg_3"]
    taking.refuses.clear()
    await deliver(store, taking, clock=Patient())
    assert taking.ids == ["msg_1", "msg_3", "msg_2", "msg_4"]


async def test_a_receiver_that_is_down_is_left_alone_soon():
    store = await outbox(*(notice(number, f"user-{number}") for number in range(50)))
    taking = Taking(refuses=[f"msg_{number}" for number in range(50)])
    done = await deliver(store, taking, clock=Patient())
    assert (done.delivered, done.waiting) == (0, 50)


async def test_a_crash_repeats_the_last_message_with_the_same_id():
    store, taking = await outbox(*(notice(number) for number in range(4))), Taking(dies_after=2)
    with pytest.raises(KeyboardInterrupt):
        await deliver(store, taking, clock=Patient())
    await deliver(store, taking, clock=Patient())
    assert taking.ids == ["msg_0", "msg_1", "msg_1", "msg_2", "msg_3"]


async def test_a_digest_is_one_message():
    store, taking = await outbox(*(notice(number, f"user-{number}") for number in range(40))), Taking()
    done = await deliver(store, taking, clock=Patient(), digest=True)
    assert done.delivered == 40
    assert len(taking.ids) == 1


async def test_a_webhook_is_signed_and_retried():
    async with Receiver().running() as receiver, Webhook(receiver.url, key=KEY_TEXT) as webhook:
        receiver.answers = [503, 429]
        store, clock = await outbox(notice(1), notice(2, kind="credential.recovered")), Patient()
        done = await deliver(store, webhook, clock=clock)
    assert (done.delivered, done.waiting) == (2, 0)
    assert clock.waited == [1.0, 5.0]
    assert receiver.told == [("ann", "credential.broken"), ("ann", "credential.recovered")]


@pytest.mark.parametrize("status", [301, 400, 401, 410])
async def test_a_refusal_is_not_repeated_at_once_and_its_words_go_nowhere(status):
    async with Receiver().running() as receiver, Webhook(receiver.url, key=KEY_TEXT) as webhook:
        receiver.answers = [status] * 9
        clock = Patient()
        done = await deliver(await outbox(notice(1)), webhook, clock=clock)
    assert (done.waiting, done.problem) == (1, f"the receiver answered {status}")
    assert clock.waited == []


async def test_a_receiver_that_is_not_there():
    async with Receiver().running() as receiver:
        pass
    async with Webhook(receiver.url, key=KEY_TEXT) as webhook:
        done = await deliver(await outbox(notice(1)), webhook, clock=Patient())
    assert done.problem == "the receiver cannot be reached: connect"


async def test_another_key_is_refused():
    async with Receiver().running() as receiver, Webhook(receiver.url, key="whsec_" + "A" * 40) as webhook:
        done = await deliver(await outbox(notice(1)), webhook, clock=Patient())
    assert done.problem == "the receiver answered 401"


@pytest.mark.parametrize(
    "url",
    ["http://app.example/hook", "ftp://app.example", "https://user:secret@app.example", "app.example/x", ""],
)
def test_a_url_that_cannot_be_used_is_refused_without_showing_it(url):
    with pytest.raises(ConfigurationError, match="webhook") as caught:
        Webhook(url, key=KEY_TEXT)
    assert "secret" not in str(caught.value)


def test_pairs_of_notices_have_their_own_ids():
    assert all(before.id != after.id for before, after in pairwise([notice(1), notice(2)]))


async def test_it_gives_up_only_after_failures_in_a_row():
    """Every second user's notice is refused: the receiver works."""
    notices = [notice(number, user=f"user-{number}") for number in range(12)]
    taking = Taking(refuses=[one.id for one in notices[::2]])
    done = await deliver(await outbox(*notices), taking, clock=Patient())
    assert (done.delivered, done.waiting) == (6, 6)
