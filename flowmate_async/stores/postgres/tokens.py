"""PostgreSQL statements for kept tokens, sealed; ``rows.py`` has all others."""

from collections.abc import Sequence

from flowmate_async.stores.base import Run, UserWrite
from flowmate_async.stores.postgres.address import Connection
from flowmate_async.stores.sealed.sealing import Sealing
from flowmate_async.stores.sealed.tokens import ResealedToken, TokenRow, sealed_tokens

_PUT = """
    INSERT INTO tokens (username, run_id, used_at, sealed)
    SELECT * FROM unnest($1::text[], $2::text[], $3::float8[], $4::bytea[])
    ON CONFLICT (username) DO UPDATE SET run_id = excluded.run_id, used_at = excluded.used_at,
        sealed = excluded.sealed
"""
_FIND = "SELECT username, run_id, used_at, sealed FROM tokens WHERE username = ANY ($1::text[])"
_AFTER = "SELECT username, run_id, used_at, sealed FROM tokens WHERE username > $1 ORDER BY username LIMIT $2"
_FORGET = "DELETE FROM tokens WHERE username = ANY ($1::text[])"
_RESEAL = """
    UPDATE tokens SET sealed = new.sealed
    FROM unnest($1::text[], $2::bytea[], $3::bytea[]) AS new (username, found, sealed)
    WHERE tokens.username = new.username AND tokens.sealed = new.found
"""


async def write(connection: Connection, sealing: Sealing, run: Run, batch: Sequence[UserWrite]) -> None:
    """Store or drop these users' tokens, within the transaction of their checkpoints."""
    rows, without = sealed_tokens(sealing, run.id, batch)
    if rows:
        await connection.execute(
            _PUT,
            [row.username for row in rows],
            [row.run_id for row in rows],
            [row.used_at for row in rows],
            [row.sealed for row in rows],
        )
    if without:
        await forget(connection, without)


async def find(connection: Connection, usernames: Sequence[str]) -> list[TokenRow]:
    """Return the tokens of these users."""
    return [TokenRow(*row) for row in await connection.fetch(_FIND, list(usernames))]


async def after(connection: Connection, username: str, limit: int) -> list[TokenRow]:
    """Return the next page of tokens."""
    return [TokenRow(*row) for row in await connection.fetch(_AFTER, username, limit)]


async def forget(connection: Connection, usernames: Sequence[str]) -> None:
    """Drop these users' tokens."""
    await connection.execute(_FORGET, sorted(usernames))


async def forget_used_before(connection: Connection, used_before: float) -> None:
    """Drop the tokens that were not used since."""
    await connection.execute("DELETE FROM tokens WHERE used_at < $1", used_before)


async def reseal(connection: Connection, page: Sequence[ResealedToken]) -> None:
    """Replace tokens with re-encrypted ones, unless they have changed since they were read."""
    if page:
        names, found, sealed = zip(*((one.username, one.found, one.sealed) for one in page), strict=True)
        await connection.execute(_RESEAL, list(names), list(found), list(sealed))
