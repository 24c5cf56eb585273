"""Writing documents that other processes also write: check-and-set, several at a time."""

import random
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import anyio

from flowmate_async.errors import StoreError
from flowmate_async.stores.documents.base import (
    Conflict,
    Document,
    Documents,
    StoreState,
    UserDocument,
    plaintext_of,
)
from flowmate_async.system.finishing import finish_despite_cancellation

Value = TypeVar("Value", StoreState, UserDocument)
Thing = TypeVar("Thing")
Result = TypeVar("Result")

_AT_ONCE = 8
_TRIES = 12
_LONGEST_PAUSE_SECONDS = 0.2


async def check_and_set(
    documents: Documents,
    name: str,
    change: Callable[[Document | None], Value],
    *,
    sleep: Callable[[float], Awaitable[None]],
) -> Value:
    """Read a document, change it and write it; start over if another writer was faster.

    Args:
        documents: the service.
        name: the document's name.
        change: returns the new document for the one that was read, if any; may be called several times.
        sleep: waits.

    Raises:
        StoreError: another writer was faster every time.
    """
    for _ in range(_TRIES):
        found = await documents.read(name)
        value = change(None if found is None or found.is_gone else found)
        text = plaintext_of(value)
        if found is not None and found.data == text.data:
            return value
        try:
            await finish_despite_cancellation(documents.write(name, text, replacing=found))
        except Conflict:
            await sleep(random.uniform(0, _LONGEST_PAUSE_SECONDS))  # noqa: S311 - no secret
        else:
            return value
    raise StoreError(
        f"the store {documents.where} is being written by others all the time",
        advice="Run again: what was acknowledged is kept",
    )


async def gather_limited(work: Callable[[Thing], Awaitable[Result]], things: Iterable[Thing]) -> list[Result]:
    """Do the work for each item, a few at a time. Return the results in any order.

    After a failure no further item is started; started ones are finished, and the first failure is raised.
    """
    results: list[Result] = []
    failures: list[Exception] = []
    turns = anyio.Semaphore(_AT_ONCE)

    async def one(thing: Thing) -> None:
        async with turns:
            if failures:
                return
            try:
                results.append(await work(thing))
            except Exception as failure:  # noqa: BLE001 - raised below, alone instead of in a group
                failures.append(failure)

    async with anyio.create_task_group() as group:
        for thing in things:
            group.start_soon(one, thing)
    if failures:
        raise failures[0]
    return results
