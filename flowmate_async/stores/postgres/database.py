"""A PostgreSQL store's connection for the shared statements: a batch of any size is one statement."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

from flowmate_async.stores.base import RecordKey
from flowmate_async.stores.postgres.address import Connection
from flowmate_async.stores.postgres.schema import read_meta
from flowmate_async.stores.sealed.meta import Meta
from flowmate_async.stores.sql.database import KEYS, Row, Table

_WANTED = """
    WITH wanted (wanted_username, wanted_id) AS (SELECT * FROM unnest($1::text[], $2::text[]))
"""


class PostgresDatabase:
    """See :class:`~flowmate_async.stores.sql.database.Database`."""

    is_shared = True
    holder_column = "run_holder"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:  # noqa: D102
        async with self._connection.transaction():
            yield

    async def execute(self, statement: str, *args: object) -> list[Row]:  # noqa: D102
        return await self._connection.fetch(statement, *args)

    async def execute_each(self, statement: str, rows: Sequence[Row]) -> None:  # noqa: D102
        if rows:
            await self._connection.executemany(statement, rows)

    async def fetch_keys(self, statement: str, keys: Sequence[str], *args: object) -> list[Row]:  # noqa: D102
        if not keys:
            return []
        text = statement.replace(KEYS, f"= ANY (${len(args) + 1}::text[])")
        return await self._connection.fetch(text, *args, list(keys))

    async def fetch_wanted(self, statement: str, keys: Sequence[RecordKey]) -> list[Row]:  # noqa: D102
        return await self._connection.fetch(_WANTED + statement, *_columns(keys)) if keys else []

    async def put(self, table: Table, rows: Sequence[Row]) -> None:  # noqa: D102
        if rows:
            await self._connection.execute(_insert(table), *_columns(rows))

    async def read_meta(self) -> Meta:  # noqa: D102
        return await read_meta(self._connection)


@lru_cache
def _insert(table: Table) -> str:
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(table.columns.values(), 1))
    changed = ", ".join(f"{name} = excluded.{name}" for name in table.columns if name not in table.key)
    return (
        f"INSERT INTO {table.name} ({', '.join(table.columns)}) SELECT * FROM unnest({arrays}) "  # noqa: S608
        f"ON CONFLICT ({', '.join(table.key)}) DO {f'UPDATE SET {changed}' if table.replaces else 'NOTHING'}"
    )


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """Return rows as column arrays for ``unnest``."""
    return [list(column) for column in zip(*rows, strict=True)]
