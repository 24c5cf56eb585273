"""A sqlite store's connection for the shared statements.

SQLite steps without the GIL, and after each step the thread has to reacquire it: next to a busy event loop
that takes up to ``sys.getswitchinterval()``, 5 ms. So statements and returned rows are expensive; the number
of written rows matters little.
"""

import re
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from itertools import chain
from typing import TypeVar

from flowmate_async.containers import chunked
from flowmate_async.stores.base import RecordKey
from flowmate_async.stores.sealed.meta import Meta
from flowmate_async.stores.sql.database import KEYS, Row, Table
from flowmate_async.stores.sqlite.files import transaction
from flowmate_async.stores.sqlite.schema import read_meta

T = TypeVar("T")

_EIGHT = 8
_MOST = 64
"""Maximum rows per statement: with twelve columns 768 variables, of the 999 that any SQLite accepts."""

_PARAMETER = re.compile(r"\$(\d+)")
_LOCK = re.compile(r"\s+FOR (UPDATE|SHARE)\b")


class SqliteDatabase:
    """See :class:`~flowmate_async.stores.sql.database.Database`. Its coroutines never wait."""

    is_shared = False
    holder_column = "NULL"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Hold the write lock of the whole file meanwhile."""
        with transaction(self._connection):
            yield

    async def execute(self, statement: str, *args: object) -> list[Row]:  # noqa: D102
        text, order = _translated(statement)
        return self._connection.execute(text, [args[number] for number in order]).fetchall()

    async def execute_each(self, statement: str, rows: Sequence[Row]) -> None:  # noqa: D102
        text, order = _translated(statement)
        self._connection.executemany(text, ([row[number] for number in order] for row in rows))

    async def fetch_keys(self, statement: str, keys: Sequence[str], *args: object) -> list[Row]:  # noqa: D102
        found: list[Row] = []
        for chunk in _chunks(keys):  # a key that is there twice counts once
            text, order = _with_keys(statement, len(chunk))
            found += self._connection.execute(text, [*(args[number] for number in order), *chunk])
        return found

    async def fetch_wanted(self, statement: str, keys: Sequence[RecordKey]) -> list[Row]:  # noqa: D102
        return [row for chunk in _chunks(keys) for row in self._many(_wanted(statement, len(chunk)), chunk)]

    async def put(self, table: Table, rows: Sequence[Row]) -> None:  # noqa: D102
        for chunk in _chunks(rows):
            self._many(_insert(table, len(chunk)), chunk)

    async def read_meta(self) -> Meta:  # noqa: D102
        return read_meta(self._connection)

    def _many(self, statement: str, rows: Sequence[Row]) -> sqlite3.Cursor:
        return self._connection.execute(statement, list(chain.from_iterable(rows)))


def _chunks(rows: Sequence[T]) -> Iterator[list[T]]:
    """Yield chunks of only a few lengths, so that their statements are prepared once.

    The last row is repeated where that saves a statement: a row costs far less.
    """
    for chunk in map(list, chunked(rows, _MOST)):
        length = (
            1 << (len(chunk) - 1).bit_length() if len(chunk) < _EIGHT else -(-len(chunk) // _EIGHT) * _EIGHT
        )
        yield chunk + chunk[-1:] * (length - len(chunk))


@lru_cache
def _translated(statement: str) -> tuple[str, tuple[int, ...]]:
    """Return a statement without locks, with ``?`` for parameters, and which argument each of them is."""
    order = tuple(int(number) - 1 for number in _PARAMETER.findall(statement))
    return _PARAMETER.sub("?", _LOCK.sub("", statement)), order


@lru_cache
def _with_keys(statement: str, keys: int) -> tuple[str, tuple[int, ...]]:
    return _translated(statement.replace(KEYS, f"IN ({_values('?', keys)})"))


@lru_cache
def _wanted(statement: str, rows: int) -> str:
    return f"WITH wanted (wanted_username, wanted_id) AS (VALUES {_values('(?, ?)', rows)}) {statement}"


@lru_cache
def _insert(table: Table, rows: int) -> str:
    verb = "REPLACE" if table.replaces else "IGNORE"
    row = f"({_values('?', len(table.columns))})"
    into = f"INSERT OR {verb} INTO {table.name} ({', '.join(table.columns)})"
    return f"{into} VALUES {_values(row, rows)}"


def _values(one: str, count: int) -> str:
    return ", ".join([one] * count)
