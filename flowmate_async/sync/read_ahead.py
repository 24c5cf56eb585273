"""Read the stored state of users ahead of the sweep, for many users at a time."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import ClassVar

from flowmate_async.redaction import Redacted
from flowmate_async.stores.base import Run, Store
from flowmate_async.stores.kept_tokens import KeepsTokens, require_keeper
from flowmate_async.sync.plan import knows_failures
from flowmate_async.sync.source import InBatches, Usernames, UserSource
from flowmate_async.sync.usernames import safe_name
from flowmate_async.values.models import KeptToken

_AHEAD = 128
"""Maximum usernames of one read, and how many users that were read may wait before the next read."""


class Known(Redacted, frozen=True):
    """A user with the stored state.

    Attributes:
        username: the user.
        seen: the result of :meth:`Store.seen`.
        token: the user's token, if the store has it.
        is_retried: whether the same run has tried the user before, and retries because something failed.
    """

    username: str
    seen: str = ""
    token: KeptToken | None = None
    is_retried: bool = False

    __shown__: ClassVar[tuple[str, ...]] = ("username",)


@asynccontextmanager
async def read_ahead(
    usernames: Usernames, store: Store, *, run: Run | None = None, tokens: bool = False
) -> AsyncIterator[InBatches[Known]]:
    """Yield the stored state of each user, in the order of the usernames.

    A read takes as long as all other work for one user here, because it waits for a thread or the network. So
    usernames that arrive during one read share the next one. A single username does not wait for others.

    Args:
        usernames: any iterable or async iterable.
        store: the store to read.
        run: the run for which the users are read; none in a dry run.
        tokens: whether to read the tokens as well.

    Raises:
        ConfigurationError: the store does not keep tokens.
    """
    keeper = require_keeper(store) if tokens else None
    async with aclosing(_read(usernames, store, run, keeper)) as batches:
        yield InBatches(batches, ahead=_AHEAD)


async def _read(
    usernames: Usernames, store: Store, run: Run | None, keeper: KeepsTokens | None
) -> AsyncGenerator[list[Known], None]:
    news = asyncio.Event()
    source = UserSource(usernames, on_news=news.set, ahead=_AHEAD)
    try:
        while not source.exhausted:
            news.clear()
            if names := source.take_many(_AHEAD):
                yield await _known(names, store, run, keeper)
            elif not source.exhausted:
                await news.wait()
    finally:
        await source.aclose()


async def _known(
    names: Sequence[str], store: Store, run: Run | None, keeper: KeepsTokens | None
) -> list[Known]:
    stored = [safe_name(name) for name in names]
    seen = await store.seen(stored)
    tokens = {} if keeper is None else await keeper.kept_tokens(stored)
    failed = [name for name, kept in seen.items() if knows_failures(kept)]
    retried = await store.statuses(run, failed) if failed and run is not None else ()
    return [
        # A name that the store has to replace may be another user's name there.
        Known(name, seen.get(key, ""), tokens.get(key) if key == name else None, key in retried)
        for name, key in zip(names, stored, strict=True)
    ]
