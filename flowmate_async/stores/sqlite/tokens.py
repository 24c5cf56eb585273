"""SQLite statements for kept tokens, sealed; ``rows.py`` has all others."""

import sqlite3
from collections.abc import Sequence

import msgspec

from flowmate_async.stores.base import Run, UserWrite
from flowmate_async.stores.sealed.sealing import Sealing
from flowmate_async.stores.sealed.tokens import ResealedToken, TokenRow, sealed_tokens
from flowmate_async.stores.sqlite.batches import insert, with_keys
from flowmate_async.stores.sqlite.files import transaction

_PUT = "INSERT OR REPLACE INTO tokens (username, run_id, used_at, sealed)"
_FIND = "SELECT username, run_id, used_at, sealed FROM tokens WHERE username IN"
_AFTER = "SELECT username, run_id, used_at, sealed FROM tokens WHERE username > ? ORDER BY username LIMIT ?"
_FORGET = "DELETE FROM tokens WHERE username IN"
_RESEAL = "UPDATE tokens SET sealed = ? WHERE username = ? AND sealed = ?"


def write(connection: sqlite3.Connection, sealing: Sealing, run: Run, batch: Sequence[UserWrite]) -> None:
    """Store or drop these users' tokens, within the transaction of their checkpoints."""
    rows, without = sealed_tokens(sealing, run.id, batch)
    insert(connection, _PUT, [msgspec.structs.astuple(row) for row in rows])
    forget(connection, without)


def find(connection: sqlite3.Connection, usernames: Sequence[str]) -> list[TokenRow]:
    """Return the tokens of these users."""
    return [TokenRow(*row) for row in with_keys(connection, _FIND, usernames)]


def after(connection: sqlite3.Connection, username: str, limit: int) -> list[TokenRow]:
    """Return the next page of tokens."""
    return [TokenRow(*row) for row in connection.execute(_AFTER, (username, limit))]


def forget(connection: sqlite3.Connection, usernames: Sequence[str]) -> None:
    """Drop these users' tokens, within the caller's transaction."""
    with_keys(connection, _FORGET, usernames)


def forget_used_before(connection: sqlite3.Connection, used_before: float) -> None:
    """Drop the tokens that were not used since."""
    with transaction(connection):
        connection.execute("DELETE FROM tokens WHERE used_at < ?", (used_before,))


def reseal(connection: sqlite3.Connection, page: Sequence[ResealedToken]) -> None:
    """Replace tokens with re-encrypted ones, unless they have changed since they were read."""
    with transaction(connection):
        connection.executemany(_RESEAL, [(one.sealed, one.username, one.found) for one in page])
