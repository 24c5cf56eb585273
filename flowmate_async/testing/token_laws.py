"""The laws of a store that keeps the users' tokens, to derive from in addition to the store suite.

As in ``class TestMyStore(StoreSuite, TokenLaws)``, see ``store_suite.py``.
"""

# ruff: noqa: S101 - these are tests

import math

import pytest
from msgspec.structs import replace

from flowmate_async.errors import StoreError
from flowmate_async.stores.base import Store, UserWrite
from flowmate_async.stores.kept_tokens import KeepsTokens, require_keeper
from flowmate_async.testing.samples import api_key
from flowmate_async.testing.store_writes import OpenStore, failed, synced, write
from flowmate_async.values.models import KeptToken, UserToken
from flowmate_async.values.secrets import UnknownSecret

__all__ = [
    "TokenLaws",
    "kept",
    "with_token",
]


def kept(text: str, *, used_at: float = 100.0) -> KeptToken:
    """Return a kept token."""
    return KeptToken(UserToken(f"token-{text}", id="id"), used_at)


def with_token(username: str, token: KeptToken | None) -> UserWrite:
    """Return what a sync writes for a user whose token is kept."""
    return replace(synced(username, api_key()), token=token)


class TokenLaws:
    """Keeping, replacing, forgetting."""

    async def test_a_token_comes_back_as_it_was(self, open_store: OpenStore) -> None:
        """Also after the store was closed; users without a kept token are absent."""
        tokens = {"ann": kept("of ann"), "Zoë/../%_'": kept("of Zoë", used_at=123.456)}
        async with open_store() as store:
            assert isinstance(store, KeepsTokens)
            assert await store.kept_tokens(["ann"]) == {}
            await write(store, *(with_token(*pair) for pair in tokens.items()), with_token("bob", None))
        async with open_store() as store:
            assert await _kept(store, *tokens, "bob", "nobody") == tokens
            assert await _kept(store, "ann") == {"ann": tokens["ann"]}
            assert await _kept(store) == {}

    async def test_the_last_write_of_a_user_says_which_token_is_kept(self, open_store: OpenStore) -> None:
        """One per user, from any run; dropped by a write without one. For duplicates, the last one wins."""
        async with open_store() as store:
            run = await write(store, *(with_token(name, kept("old")) for name in ("ann", "bob", "cid")))
            await store.write(run, [with_token("ann", kept("newer"))])
            later = await store.begin_run(at=2.0)
            await store.write(later, [with_token("bob", kept("newest"))])
            assert await _texts(store, "ann", "bob", "cid") == ["token-newer", "token-newest", "token-old"]
            await store.write(later, [failed("ann"), with_token("cid", None)])
            await store.write(later, [with_token("bob", kept("1")), with_token("bob", kept("2"))])
            assert await _texts(store, "ann", "bob", "cid") == ["token-2"]

    async def test_a_batch_that_fails_leaves_the_tokens_as_they_were(self, open_store: OpenStore) -> None:
        """Tokens are written with the checkpoints, or not at all."""
        impossible = synced("bob", UnknownSecret(id="bad", kind="X", value="\ud800"))
        async with open_store() as store:
            run = await write(store, with_token("ann", kept("before")))
            with pytest.raises(StoreError, match="bad"):
                await store.write(run, [with_token("ann", kept("after")), impossible])
            assert await _texts(store, "ann") == ["token-before"]

    async def test_who_is_gone_upstream_has_no_token_any_more(self, open_store: OpenStore) -> None:
        """The token is dropped at once, whatever happens to the credentials."""
        async with open_store() as store:
            run = await write(store, with_token("ann", kept("a")), with_token("bob", kept("b")))
            await store.note_missing(run, ["ann", "nobody"])
            assert await _texts(store, "ann", "bob") == ["token-b"]

    async def test_tokens_are_forgotten_by_age(self, open_store: OpenStore) -> None:
        """Tokens last used before a time; before infinity, all of them."""
        async with open_store() as store:
            users = [with_token(f"user-{at}", kept(f"{at}", used_at=at)) for at in (1.0, 2.0, 3.0)]
            await write(store, *users)
            names = [user.checkpoint.username for user in users]
            await require_keeper(store).forget_tokens(used_before=2.0)
            assert await _texts(store, *names) == ["token-2.0", "token-3.0"]
            await require_keeper(store).forget_tokens(used_before=math.inf)
            assert await _texts(store, *names) == []
            assert await store.get("user-1.0", "secret-1") == api_key()

    async def test_tokens_are_asked_for_by_the_thousand(self, open_store: OpenStore) -> None:
        """Limits of the driver are not visible."""
        names = [f"user-{number:05}" for number in range(5000)]
        async with open_store() as store:
            await write(store, *(with_token(name, kept(name)) for name in names[:1000]))
            assert await _kept(store, *names) == {name: kept(name) for name in names[:1000]}

    async def test_a_token_does_not_show_itself(self, open_store: OpenStore) -> None:
        """Neither in the written values nor in the returned ones."""
        async with open_store() as store:
            user = with_token("ann", kept("of ann"))
            await write(store, user)
            assert "of ann" not in repr(user) + repr(await _kept(store, "ann"))


async def _kept(store: Store, *usernames: str) -> dict[str, KeptToken]:
    return dict(await require_keeper(store).kept_tokens(usernames))


async def _texts(store: Store, *usernames: str) -> list[str]:
    """Return the tokens of these users, by username."""
    return [one.token.token for _, one in sorted((await _kept(store, *usernames)).items())]
