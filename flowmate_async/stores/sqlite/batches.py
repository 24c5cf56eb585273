"""Statements over many rows at once.

SQLite is stepped without the interpreter's lock, and after each step a thread has to get it back: beside an
event loop that never rests that takes up to ``sys.getswitchinterval()``, 5 ms. So it is statements that cost,
and the rows they return; how many rows they write matters little.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

_EIGHT = 8
_MOST = 64
"""Most rows of one statement: with eleven columns 704 variables, of the 999 that any SQLite takes."""


def insert(connection: sqlite3.Connection, into: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert or replace these rows, in their order.

    Args:
        connection: within a transaction.
        into: the statement up to its ``VALUES``; it replaces rows that are there, since some come twice.
        rows: their columns.
    """
    for chunk in _chunks(rows):
        connection.execute(_rows_after(f"{into} VALUES ", len(chunk), len(chunk[0])), _flat(chunk))


def with_keys(
    connection: sqlite3.Connection, statement: str, keys: Sequence[str], *before: object
) -> list[tuple[Any, ...]]:
    """Carry out a statement for the rows with these keys; what it returns of them.

    Args:
        connection: where.
        statement: it ends with ``column IN``.
        keys: the keys.
        before: the values of other variables, which come before.
    """
    found: list[tuple[Any, ...]] = []
    for start in range(0, len(keys), _MOST):
        chunk = list(keys[start : start + _MOST])
        length = 1 << (len(chunk) - 1).bit_length()
        chunk += chunk[-1:] * (length - len(chunk))  # a key that is there twice counts once
        found += connection.execute(_keys_after(statement, length), (*before, *chunk))
    return found


def with_rows(
    connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]]
) -> list[tuple[Any, ...]]:
    """Carry out a statement that has these rows as a table, ``wanted``; return what it returns.

    Some of the rows may be there twice, and so may what is returned of them.

    Args:
        connection: where.
        statement: names the table's columns ``column1``, ``column2`` …
        rows: the table, which has at least a column.
    """
    found: list[tuple[Any, ...]] = []
    for chunk in _chunks(rows):
        wanted = _rows_after("WITH wanted AS (VALUES ", len(chunk), len(chunk[0]))
        found += connection.execute(f"{wanted}) {statement}", _flat(chunk))
    return found


def _chunks(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield pieces of a few lengths only, so that their statements are prepared once.

    The last row of a piece is repeated where that makes one statement of several: a row costs far less.
    """
    for start in range(0, len(rows), _MOST):
        chunk = list(rows[start : start + _MOST])
        length = (
            1 << (len(chunk) - 1).bit_length() if len(chunk) < _EIGHT else -(-len(chunk) // _EIGHT) * _EIGHT
        )
        yield chunk + chunk[-1:] * (length - len(chunk))


def _flat(rows: Sequence[tuple[Any, ...]]) -> list[Any]:
    return list(chain.from_iterable(rows))


@lru_cache
def _rows_after(before: str, rows: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return before + ", ".join([row] * rows)


@lru_cache
def _keys_after(before: str, keys: int) -> str:
    return f"{before} ({', '.join('?' * keys)})"
