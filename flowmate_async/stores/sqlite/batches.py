"""Statements over many rows at once.

SQLite steps without the GIL, and after each step the thread has to reacquire it: next to a busy event loop
that takes up to ``sys.getswitchinterval()``, 5 ms. So statements and returned rows are expensive; the number
of written rows matters little.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

_EIGHT = 8
_MOST = 64
"""Maximum rows per statement: with eleven columns 704 variables, of the 999 that any SQLite accepts."""


def insert(connection: sqlite3.Connection, into: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert or replace these rows, in their order.

    Args:
        connection: within a transaction.
        into: the statement up to its ``VALUES``; it replaces existing rows, since some may occur twice.
        rows: their columns.
    """
    for chunk in _chunks(rows):
        connection.execute(_rows_after(f"{into} VALUES ", len(chunk), len(chunk[0])), _flat(chunk))


def with_keys(
    connection: sqlite3.Connection, statement: str, keys: Sequence[str], *before: object
) -> list[tuple[Any, ...]]:
    """Execute a statement for the rows with these keys. Return the rows it returns.

    Args:
        connection: where.
        statement: it ends with ``column IN``.
        keys: the keys.
        before: the values of the variables before them.
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
    """Execute a statement with these rows as a table, ``wanted``. Return the rows it returns.

    Some of the rows may occur twice, and so may the returned ones.

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
    """Yield chunks of only a few lengths, so that their statements are prepared once.

    The last row is repeated where that saves a statement: a row costs far less.
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
