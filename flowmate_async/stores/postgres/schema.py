"""The tables of a PostgreSQL store: checks on opening, creation and upgrades.

Names are compared bytewise (``COLLATE "C"``), the order of every store. Knows nothing of single
credentials or of runs.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress

from msgspec.structs import replace

from flowmate_async.errors import StoreError, StoreMissingError
from flowmate_async.stores.keys import StoreKey
from flowmate_async.stores.postgres.address import Address, Connection, driver
from flowmate_async.stores.sealed.meta import Meta, damaged_meta, new_meta, pick_key

FORMAT = 4
"""The format this version writes, kept in the table ``meta``."""

FORMAT_WITH_MANIFESTS = 3
_WITH_DEAD_ROWS = ("secrets", "tokens", "meta")

_TOKENS = """
    CREATE TABLE tokens (
        username text COLLATE "C" PRIMARY KEY,
        run_id text NOT NULL,
        used_at double precision NOT NULL,
        sealed bytea NOT NULL
    );
    ALTER TABLE tokens ALTER COLUMN sealed SET STORAGE EXTERNAL;
"""

_MANIFESTS = """
    CREATE TABLE manifests (
        username text COLLATE "C" PRIMARY KEY,
        counter bigint NOT NULL,
        entries bytea NOT NULL,
        mac bytea NOT NULL
    );
    ALTER TABLE manifests ALTER COLUMN entries SET STORAGE EXTERNAL;
"""

_HEALTH = """
    CREATE TABLE health (
        username text COLLATE "C" NOT NULL,
        secret_id text COLLATE "C" NOT NULL,
        type text NOT NULL,
        auth_client_id text,
        state text NOT NULL,
        reason text NOT NULL,
        since double precision NOT NULL,
        told text,
        evidence text NOT NULL,
        PRIMARY KEY (username, secret_id)
    );
    CREATE TABLE outbox (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id text NOT NULL UNIQUE,
        notice text NOT NULL
    );
"""

MIGRATIONS: Mapping[int, str] = {
    1: _TOKENS,
    2: _MANIFESTS + "ALTER TABLE meta ADD COLUMN run_holder text;",
    3: _HEALTH + "ALTER TABLE checkpoints ADD COLUMN renewed text NOT NULL DEFAULT '';",
}
"""The statements that upgrade the tables of a store of that format to the next one."""

TABLES = (
    """
    CREATE TABLE meta (
        format integer NOT NULL,
        store_id text NOT NULL,
        key_id text NOT NULL,
        key_check bytea NOT NULL,
        origin text,
        previous_key_id text,
        previous_key bytea,
        run_holder text
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
        renewed text NOT NULL DEFAULT '',
        PRIMARY KEY (run_id, username)
    );
    CREATE INDEX ON checkpoints (username);
"""
    + _TOKENS
    + _MANIFESTS
    + _HEALTH
)


async def prepare(connection: Connection, keys: Sequence[StoreKey], address: Address, create: bool) -> Meta:  # noqa: FBT001
    """Check the existing tables without changing them, or create them if ``create``.

    Raises:
        StoreError: tables missing, of a newer version, with another key, or not a store's.
    """
    if not await _is_there(connection, address):
        if not create:
            raise StoreMissingError(f"there is no store {address.where}", advice="Check the store's URL")
        async with connection.transaction():  # one process at a time
            await connection.execute(
                "SELECT pg_advisory_xact_lock($1)", lock_number("prepare", address.schema)
            )
            if not await _is_there(connection, address):
                await _create(connection, keys[0], address)
    await checked_format(connection, address)
    meta = await read_meta(connection)
    pick_key(meta, keys, where=address.where)
    return meta


async def _is_there(connection: Connection, address: Address) -> bool:
    # From the catalogue, since to_regclass() may cache that there was no table.
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = 'meta')",
            address.schema,
        )
    )


async def _create(connection: Connection, key: StoreKey, address: Address) -> None:
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise StoreError(
            f"the database of the store {address.where} has encoding {encoding}",
            advice="Make one with createdb --encoding=UTF8 --template=template0",
        )
    await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {address.schema}")
    await connection.execute(TABLES)
    made = new_meta(key, checked=checked_of(FORMAT))
    await connection.execute(
        "INSERT INTO meta (format, store_id, key_id, key_check) VALUES ($1, $2, $3, $4)",
        FORMAT,
        made.store_id,
        made.key_id,
        made.key_check,
    )


async def checked_format(connection: Connection, address: Address) -> int:
    """Return the store's format.

    Raises:
        StoreError: this version cannot read it.
    """
    found = int(await connection.fetchval("SELECT format FROM meta") or 0)
    if not min(MIGRATIONS) <= found <= FORMAT:
        raise StoreError(
            f"the store {address.where} has format {found}, and this version knows formats up to {FORMAT}",
            advice="Upgrade flowmate-async",
        )
    return found


def checked_of(found: int) -> str:
    """Return what a store's key check covers: the format, in formats with manifests."""
    return f"format {found}" if found >= FORMAT_WITH_MANIFESTS else ""


async def read_meta(connection: Connection) -> Meta:
    """Return the store's current metadata."""
    row = await connection.fetchrow(
        "SELECT store_id, key_id, key_check, origin, previous_key_id, previous_key, format FROM meta"
    )
    if row is None:
        raise damaged_meta()
    *said, found = row
    return replace(Meta(*said), checked=checked_of(found))


async def rewrite_tables(connection: Connection) -> str:
    """Rewrite the tables with credentials, so that no dead rows are left.

    Returns:
        Where dead rows are left; empty if nowhere.
    """
    left = []
    await connection.execute("SET lock_timeout = '30s'")
    try:
        for table in _WITH_DEAD_ROWS:
            before = await connection.fetchval("SELECT pg_relation_filenode($1::regclass)", table)
            with suppress(driver().PostgresError):
                await connection.execute(f"VACUUM FULL {table}")
            if before == await connection.fetchval("SELECT pg_relation_filenode($1::regclass)", table):
                left.append(table)
    finally:
        await connection.execute("RESET lock_timeout")
    if not left:
        return ""
    return f"dead rows of {' and '.join(left)}, until their owner runs VACUUM FULL on them"


def lock_number(purpose: str, name: str) -> int:
    """Return the number that identifies the advisory lock in PostgreSQL."""
    digest = hashlib.sha256(f"flowmate_async {purpose} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
