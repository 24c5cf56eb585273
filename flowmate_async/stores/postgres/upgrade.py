"""Upgrade of a PostgreSQL store to the current format, in one transaction."""

from collections.abc import Sequence

from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.postgres.address import Address, Connection
from flowmate_async.stores.postgres.database import PostgresDatabase
from flowmate_async.stores.postgres.schema import (
    FORMAT,
    FORMAT_WITH_MANIFESTS,
    MIGRATIONS,
    checked_format,
    checked_of,
    lock_number,
)
from flowmate_async.stores.sql.meta import end_upgrade
from flowmate_async.stores.upgrading import Upgraded


async def upgrade(connection: Connection, keys: Sequence[StoreKey], address: Address) -> Upgraded:
    """Change the tables of a store and authenticate the existing rows.

    Raises:
        StoreError: the role may not change the tables; nothing has changed.
    """
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", lock_number("prepare", address.schema))
        await connection.execute("SELECT 1 FROM meta FOR UPDATE")  # waits for those who are writing
        found = await checked_format(connection, address)
        if found == FORMAT:
            return Upgraded(before=found, after=found)
        for number in range(found, FORMAT):
            await connection.execute(MIGRATIONS[number])
        await end_upgrade(
            PostgresDatabase(connection),
            keys,
            where=address.where,
            checked=checked_of(FORMAT),
            had_manifests=found >= FORMAT_WITH_MANIFESTS,
        )
        await connection.execute("UPDATE meta SET format = $1", FORMAT)
    return Upgraded(before=found, after=FORMAT)
