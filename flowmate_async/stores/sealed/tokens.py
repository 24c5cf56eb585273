"""Kept tokens in sealed stores: rows to write, to open and to re-encrypt with another key.

Nothing here knows where the rows are.
"""

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from flowmate_async.stores.base import UserWrite
from flowmate_async.stores.sealed.paging import PAGE
from flowmate_async.stores.sealed.sealing import Sealing
from flowmate_async.values.models import KeptToken


class TokenRow(msgspec.Struct, frozen=True):
    """A user's sealed token.

    Attributes:
        username: the user.
        run_id: the run under whose subkey it is sealed.
        used_at: when it was last accepted, in seconds since the Unix epoch.
        sealed: nonce, ciphertext and tag.
    """

    username: str
    run_id: str
    used_at: float
    sealed: bytes


def sealed_tokens(
    sealing: Sealing, run_id: str, batch: Sequence[UserWrite]
) -> tuple[list[TokenRow], list[str]]:
    """Return the tokens of a batch, sealed, and the users without one; both by name."""
    tokens = {user.checkpoint.username: user.token for user in batch}
    rows = [
        TokenRow(name, run_id, kept.used_at, sealing.seal_token(name, kept, run_id=run_id))
        for name, kept in sorted(tokens.items())
        if kept is not None
    ]
    return rows, sorted(name for name, kept in tokens.items() if kept is None)


def opened_tokens(sealing: Sealing, rows: Sequence[TokenRow]) -> dict[str, KeptToken]:
    """Return the tokens that can be decrypted, by user. The next sync replaces the others."""
    opened = {row.username: sealing.opened_token(row.username, row.run_id, row.sealed) for row in rows}
    return {name: kept for name, kept in opened.items() if kept is not None}


class ResealedToken(msgspec.Struct, frozen=True):
    """A token as it was read, and its replacement, both sealed."""

    username: str
    found: bytes
    sealed: bytes


async def reseal_tokens(
    fetch: Callable[[str, int], Awaitable[list[TokenRow]]],
    sealing: Callable[[], Sealing],
    put: Callable[[list[ResealedToken]], Awaitable[object]],
) -> None:
    """Re-encrypt every token that does not have the new key yet; skip those that cannot be decrypted.

    Args:
        fetch: returns the page after a username, of the given number of rows.
        sealing: the sealing with the new key and the previous one.
        put: writes some tokens, each only if it has not changed since it was read.
    """
    last = ""
    while page := await fetch(last, PAGE):
        await put([resealed for row in page if (resealed := _resealed(sealing(), row)) is not None])
        last = page[-1].username


def _resealed(sealing: Sealing, row: TokenRow) -> ResealedToken | None:
    sealed = sealing.resealed_token(row.username, row.run_id, row.sealed)
    return None if sealed is None else ResealedToken(row.username, row.sealed, sealed)
