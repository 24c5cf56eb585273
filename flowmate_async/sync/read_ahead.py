"""Usernames with what a store has kept of them: read ahead of the sweep, for many users at a time."""

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
"""Most usernames of one read, and how many users that were read may wait before the next one."""


class Known(Redacted, frozen=True):
    """A user, and what the store has kept.

    Attributes:
        username: the user.
        seen: what :meth:`Store.seen` tells.
        token: the user's token, if tokens are kept and theirs is.
        is_retried: whether this very run has tried the user before, and tries again because something failed.
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
    """Yield what a store has kept of each user, in the order of the usernames.

    A read takes as long as everything else that is done for one user here, because a thread or a network is
    waited for. So usernames that come while one read is under way share the next one. A username that comes
    alone does not wait for others.

    Args:
        usernames: any iterable or async iterable.
        store: what is read.
        run: the run for which the users are read; none in a dry run.
        tokens: whether to read the tokens as well.

    Raises:
        ConfigurationError: the store keeps none.
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
        # What a store has to call otherwise may be somebody else's name there.
        Known(name, seen.get(key, ""), tokens.get(key) if key == name else None, key in retried)
        for name, key in zip(names, stored, strict=True)
    ]
