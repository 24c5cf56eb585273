"""A store may be opened at any moment while other processes write to it."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import anyio

from flowmate_async.stores.sqlite.store import SqliteStore

WRITER = textwrap.dedent("""
    import sqlite3, sys
    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    connection.execute("PRAGMA wal_autocheckpoint = 1")  # into the file itself, after every write
    print("writing", flush=True)
    number = 0
    while True:
        number += 1
        connection.execute(
            "INSERT OR REPLACE INTO checkpoints VALUES ('run', ?, 'synced', 0, 0, 0, 0, '', ?, 1)",
            (f"user-{number % 5000}", "x" * (number % 3000)),
        )
""")


def test_a_store_opens_while_others_move_its_pages(open_sqlite, path: Path) -> None:
    """The first look takes no lock, so it may see half of a change; that does not count as damage."""

    async def opened() -> SqliteStore:
        async with open_sqlite() as store:
            return store

    anyio.run(opened)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout.readline() == "writing\n"
        deadline = time.monotonic() + 2

        async def again_and_again() -> None:
            store = open_sqlite()
            store._busy_timeout_seconds = 5.0
            while time.monotonic() < deadline:
                async with store:
                    pass

        anyio.run(again_and_again)
    finally:
        writer.kill()
        writer.communicate()
