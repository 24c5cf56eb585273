"""The statements for kept tokens, sealed; ``rows.py`` has all others."""

from collections.abc import Sequence

from msgspec.structs import astuple

from flowmate_async.stores.base import Run, UserWrite
from flowmate_async.stores.sealed.sealing import Sealing
from flowmate_async.stores.sealed.tokens import ResealedToken, TokenRow, sealed_tokens
from flowmate_async.stores.sql.database import Database, Table

_TOKENS = Table(
    "tokens", ("username",), {"username": "text", "run_id": "text", "used_at": "float8", "sealed": "bytea"}
)
_FIND = "SELECT username, run_id, used_at, sealed FROM tokens WHERE username IN (:keys)"
_AFTER = "SELECT username, run_id, used_at, sealed FROM tokens WHERE username > $1 ORDER BY username LIMIT $2"
_FORGET = "DELETE FROM tokens WHERE username IN (:keys)"
_RESEAL = "UPDATE tokens SET sealed = $1 WHERE username = $2 AND sealed = $3"


async def write(db: Database, sealing: Sealing, run: Run, batch: Sequence[UserWrite]) -> None:
    """Store or drop these users' tokens, within the transaction of their checkpoints."""
    rows, without = sealed_tokens(sealing, run.id, batch)
    await db.put(_TOKENS, [astuple(row) for row in rows])
    await forget(db, without)


async def find(db: Database, usernames: Sequence[str]) -> list[TokenRow]:
    """Return the tokens of these users."""
    return [TokenRow(*row) for row in await db.fetch_keys(_FIND, usernames)]


async def after(db: Database, username: str, limit: int) -> list[TokenRow]:
    """Return the next page of tokens."""
    return [TokenRow(*row) for row in await db.execute(_AFTER, username, limit)]


async def forget(db: Database, usernames: Sequence[str]) -> None:
    """Drop these users' tokens, within the caller's transaction."""
    await db.fetch_keys(_FORGET, sorted(usernames))


async def forget_used_before(db: Database, used_before: float) -> None:
    """Drop the tokens that were not used since."""
    async with db.transaction():
        await db.execute("DELETE FROM tokens WHERE used_at < $1", used_before)


async def reseal(db: Database, page: Sequence[ResealedToken]) -> None:
    """Replace tokens with re-encrypted ones, unless they have changed since they were read."""
    async with db.transaction():
        await db.execute_each(_RESEAL, [(one.sealed, one.username, one.found) for one in page])
