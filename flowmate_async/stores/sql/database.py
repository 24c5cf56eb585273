"""The seam between the shared statements and a database: what they need of it, and the tables they write.

The statements are coroutines over a :class:`Database`. PostgreSQL awaits its server in them. SQLite never
waits: its store runs a whole coroutine at once, in its worker thread.
"""

from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

import msgspec

from flowmate_async.stores.base import RecordKey
from flowmate_async.stores.sealed.meta import Meta

T = TypeVar("T")
Row = tuple[Any, ...]

KEYS = "IN (:keys)"
"""Stands for the condition that a column has one of the keys; see :meth:`Database.fetch_keys`."""

AFTER = {
    False: "WHERE (username, secret_id) > ($1, $2) ORDER BY username, secret_id LIMIT $3",
    True: "WHERE username = $1 AND secret_id > $2 ORDER BY secret_id LIMIT $3",
}
"""The next page, of all users or of one; written out for both, so that each follows the primary key."""


class Table(msgspec.Struct, frozen=True):
    """A table that batches are written to.

    Attributes:
        name: its name.
        key: the primary key's columns.
        columns: the written columns and their PostgreSQL types, in the order of a row's values.
        replaces: whether a row replaces an existing one of the same key, or leaves it unchanged.
    """

    name: str
    key: tuple[str, ...]
    columns: dict[str, str]
    replaces: bool = True

    def __hash__(self) -> int:
        """Return a hash, so that the statements made for a table can be cached."""
        return hash(self.name)


class Database(Protocol):
    """A connection, for one piece of work. Parameters are written ``$1`` and so on.

    Attributes:
        is_shared: whether others may write during a transaction, so that rows must be locked. Otherwise
            ``FOR UPDATE`` and ``FOR SHARE`` are ignored.
        holder_column: the column of ``meta`` that names the holder of the run lock.
    """

    is_shared: bool
    holder_column: str

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """Commit all of the block's changes, or none."""
        ...

    async def execute(self, statement: str, *args: object) -> list[Row]:
        """Execute a statement. Return the rows it returns."""
        ...

    async def execute_each(self, statement: str, rows: Sequence[Row]) -> None:
        """Execute a statement once for each of these rows of arguments."""
        ...

    async def fetch_keys(self, statement: str, keys: Sequence[str], *args: object) -> list[Row]:
        """Execute a statement for the rows with these keys. Return the rows it returns.

        Args:
            statement: has :data:`KEYS` once, after all parameters.
            keys: the keys.
            args: the parameters.
        """
        ...

    async def fetch_wanted(self, statement: str, keys: Sequence[RecordKey]) -> list[Row]:
        """Execute a statement over the table ``wanted (wanted_username, wanted_id)``.

        Args:
            statement: begins with ``SELECT``.
            keys: the table's rows; a row may occur twice, and so may the returned ones.
        """
        ...

    async def put(self, table: Table, rows: Sequence[Row]) -> None:
        """Write rows with different keys into a table, within a transaction."""
        ...

    async def read_meta(self) -> Meta:
        """Return the store's current metadata."""
        ...


def run_now(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits, and return its result."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return] # a StopIteration is not generic
    work.close()
    raise RuntimeError("work on a database that never waits has waited")
