"""Deliver the notices of a store's outbox: in order for each credential, at least once, across runs.

A notice leaves the outbox only after delivery. So a crash repeats at most the last one, with the same id, and
the next run retries what was not delivered. Nothing here knows how a message is transported.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from flowmate_async.clock import Clock
from flowmate_async.health.records import Notice
from flowmate_async.health.webhook import Message, digest_of, message_of
from flowmate_async.stores.health import KeepsHealth

_AT_ONCE = 1000
_WAITS_SECONDS = (1.0, 5.0)
"""Waits before the second and the third attempt."""

_MAX_FAILURES = 3
"""Number of failed messages in a row after which the receiver counts as down."""


class NotDeliveredError(Exception):
    """A message was not delivered.

    Args:
        why: a few words for the reader, without any part of the address or the message.
        retry: whether an immediate retry may help.
    """

    def __init__(self, why: str, *, retry: bool = True) -> None:
        super().__init__(why)
        self.why = why
        self.retry = retry


class Notifier(Protocol):
    """Delivers messages to a receiver."""

    async def send(self, message: Message) -> None:
        """Deliver one message. A normal return means that it was accepted.

        Raises:
            NotDeliveredError: it was not.
        """
        ...


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a delivery.

    Attributes:
        delivered: changes that were delivered.
        waiting: changes that stay in the outbox for the next run.
        problem: why the last failed message failed; empty if none did.
    """

    delivered: int = 0
    waiting: int = 0
    problem: str = ""


async def deliver(store: KeepsHealth, notifier: Notifier, *, clock: Clock, digest: bool = False) -> Delivery:
    """Deliver the outbox until it is empty or the receiver seems to be down.

    Args:
        store: the store with the outbox.
        notifier: delivers the messages.
        clock: the clock for waits between attempts.
        digest: send one message about all changes, up to a thousand in each.
    """
    delivered, problem = 0, ""
    while not problem and (notices := await store.notices(_AT_ONCE)):
        step = _deliver_together if digest else _deliver_each
        taken, problem = await step(store, notifier, clock, notices)
        delivered += taken
    waiting = len(await store.notices(_AT_ONCE)) if problem else 0
    return Delivery(delivered=delivered, waiting=waiting, problem=problem)


async def _deliver_together(
    store: KeepsHealth, notifier: Notifier, clock: Clock, notices: Sequence[Notice]
) -> tuple[int, str]:
    """Send one message about all of these. Return how many were delivered, and the problem if any."""
    if problem := await _problem_of(notifier, digest_of(notices), clock):
        return 0, problem
    await store.forget_notices(notices)
    return len(notices), ""


async def _deliver_each(
    store: KeepsHealth, notifier: Notifier, clock: Clock, notices: Sequence[Notice]
) -> tuple[int, str]:
    """Send one message per notice. Notices after an undelivered one of the same credential wait for it."""
    blocked: set[tuple[str, str]] = set()
    taken = failures = 0
    problem = ""
    for notice in notices:
        place = (notice.credential.username, notice.credential.secret_id)
        if place in blocked:
            continue
        if failed := await _problem_of(notifier, message_of(notice), clock):
            problem, failures = failed, failures + 1
            blocked.add(place)
            if failures == _MAX_FAILURES:
                break
            continue
        await store.forget_notices([notice])
        taken, failures = taken + 1, 0
    return taken, problem


async def _problem_of(notifier: Notifier, message: Message, clock: Clock) -> str:
    """Send a message, up to three times. Return why it was not delivered, or an empty string."""
    for wait in (*_WAITS_SECONDS, None):
        try:
            await notifier.send(message)
        except NotDeliveredError as failure:
            if wait is None or not failure.retry:
                return failure.why
            await clock.sleep(wait)
        else:
            return ""
    return ""
