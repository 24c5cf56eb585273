"""The tables of a PostgreSQL store, who may open it, how they are made and brought up to date.

Names are compared byte by byte (``COLLATE "C"``), as every store orders them. Knows nothing of single
credentials or of runs.
"""

import hashlib
from collections.abc import Mapping, Sequence

from flowmate_async.errors import StoreError
from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.meta import Meta, new_meta, pick_key
from flowmate_async.stores.postgres_address import Address, Connection

FORMAT = 2
"""The format this version writes, kept in the table ``meta``."""

_TOKENS = """
    CREATE TABLE tokens (
        username text COLLATE "C" PRIMARY KEY,
        run_id text NOT NULL,
        used_at double precision NOT NULL,
        sealed bytea NOT NULL
    );
    ALTER TABLE tokens ALTER COLUMN sealed SET STORAGE EXTERNAL;
"""

MIGRATIONS: Mapping[int, str] = {1: _TOKENS}
"""What brings a store of that format to the next one."""

TABLES = (
    """
    CREATE TABLE meta (
        format integer NOT NULL,
        store_id text NOT NULL,
        key_id text NOT NULL,
        key_check bytea NOT NULL,
        origin text,
        previous_key_id text,
        previous_key bytea
    );
    CREATE UNIQUE INDEX ON meta ((true));
    CREATE TABLE secrets (
        username text COLLATE "C" NOT NULL,
        secret_id text COLLATE "C" NOT NULL,
        type text NOT NULL,
        expires_at text,
        run_id text NOT NULL,
        stored_at double precision NOT NULL,
        fingerprint bytea NOT NULL,
        sealed bytea NOT NULL,
        missing_run text,
        removed_at double precision,
        PRIMARY KEY (username, secret_id)
    );
    ALTER TABLE secrets ALTER COLUMN sealed SET STORAGE EXTERNAL;
    CREATE INDEX ON secrets (missing_run) WHERE missing_run IS NOT NULL;
    CREATE TABLE runs (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id text NOT NULL UNIQUE,
        started_at double precision NOT NULL,
        finished_at double precision,
        selection text NOT NULL
    );
    CREATE TABLE checkpoints (
        run_id text NOT NULL,
        username text COLLATE "C" NOT NULL,
        status text NOT NULL,
        secrets bigint NOT NULL,
        requests bigint NOT NULL,
        seconds double precision NOT NULL,
        at double precision NOT NULL,
        error text NOT NULL,
        message text NOT NULL,
        listing_proven boolean NOT NULL,
        seen text NOT NULL,
        PRIMARY KEY (run_id, username)
    );
    CREATE INDEX ON checkpoints (username);
"""
    + _TOKENS
)


async def prepare(connection: Connection, keys: Sequence[StoreKey], address: Address, create: bool) -> Meta:  # noqa: FBT001
    """Check the tables that are there and update them, or make them if ``create``; one process at a time.

    Raises:
        StoreError: none there, of a newer version, another key, or not a store's tables.
    """
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", lock_number("prepare", address.schema))
        if not await connection.fetchval("SELECT to_regclass('meta') IS NOT NULL"):
            if not create:
                raise StoreError(f"there is no store {address.where}", advice="Check the store's URL")
            await _create(connection, keys[0], address)
        found = await _checked_format(connection, address)
        meta = await read_meta(connection)
        pick_key(meta, keys, where=address.where)
        await _migrate(connection, found)
        return meta


async def _create(connection: Connection, key: StoreKey, address: Address) -> None:
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise StoreError(
            f"the database of the store {address.where} has encoding {encoding}",
            advice="Make one with createdb --encoding=UTF8 --template=template0",
        )
    await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {address.schema}")
    await connection.execute(TABLES)
    made = new_meta(key)
    await connection.execute(
        "INSERT INTO meta (format, store_id, key_id, key_check) VALUES ($1, $2, $3, $4)",
        FORMAT,
        made.store_id,
        made.key_id,
        made.key_check,
    )


async def _checked_format(connection: Connection, address: Address) -> int:
    found = int(await connection.fetchval("SELECT format FROM meta") or 0)
    if not min(MIGRATIONS) <= found <= FORMAT:
        raise StoreError(
            f"the store {address.where} has format {found}, and this version knows formats up to {FORMAT}",
            advice="Upgrade flowmate-async",
        )
    return found


async def _migrate(connection: Connection, found: int) -> None:
    for number in range(found, FORMAT):
        await connection.execute(MIGRATIONS[number])
    if found != FORMAT:
        await connection.execute("UPDATE meta SET format = $1", FORMAT)


async def read_meta(connection: Connection) -> Meta:
    """What the store says of itself now."""
    row = await connection.fetchrow(
        "SELECT store_id, key_id, key_check, origin, previous_key_id, previous_key FROM meta"
    )
    if row is None:
        raise StoreError(
            "the store has lost its first table's row, so it is damaged", advice="Restore a backup"
        )
    return Meta(*row)


async def write_meta(connection: Connection, meta: Meta) -> None:
    """Have the store say something else of itself."""
    await connection.execute(
        "UPDATE meta SET key_id = $1, key_check = $2, origin = $3, previous_key_id = $4, previous_key = $5",
        meta.key_id,
        meta.key_check,
        meta.origin,
        meta.previous_key_id,
        meta.previous_key,
    )


def lock_number(purpose: str, name: str) -> int:
    """The number of an advisory lock, which is all that PostgreSQL knows it by."""
    digest = hashlib.sha256(f"flowmate_async {purpose} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
