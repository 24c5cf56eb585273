"""No error of a store shows a credential or a key: neither its text nor any frame of its traceback.

Trackers of errors print the locals of every frame, so these tests do as well.
"""

import base64
import os
import sqlite3
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from flowmate_async.errors import FlowMateError
from flowmate_async.stores import Checkpoint, StoreKey, UserWrite, load_key, open_store
from flowmate_async.stores.encoding import Plaintext
from flowmate_async.stores.memory import MemoryStore
from flowmate_async.stores.sealed.sealing import Sealed, Sealing, length_prefixed
from flowmate_async.stores.sqlite.store import SqliteStore
from flowmate_async.system.private_files import create_private, read_private_text, write_private_atomically
from flowmate_async.values.secrets import MixedSecret, MixedValue

pytestmark = pytest.mark.anyio

OpenSqlite = Callable[[], SqliteStore]
CREDENTIAL = "this-is-the-credential"
KEY = b"0123456789abcdef0123456789abcdef"
FORBIDDEN = [CREDENTIAL, KEY.decode(), KEY.hex(), base64.b64encode(KEY).decode().rstrip("=")]


def user(payload: str = CREDENTIAL) -> UserWrite:
    secret = MixedSecret(id="s", name=CREDENTIAL, value=MixedValue(payload=payload))
    return UserWrite(checkpoint=Checkpoint(username="ann", status="synced"), secrets=(secret,))


def assert_shows_nothing(error: BaseException) -> None:
    """The whole chain, with the locals of every frame."""
    shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "self = " in shown or "path = " in shown or "what = " in shown or "url" in shown
    for text in FORBIDDEN:
        assert text not in shown
    assert error.__cause__ is None
    assert error.__context__ is None


async def fill(store: SqliteStore | MemoryStore) -> None:
    await store.bind("https://flowmate.example")
    await store.write(await store.begin_run(at=1.0), [user()])


async def test_a_credential_that_cannot_be_encoded(open_sqlite: OpenSqlite) -> None:
    """UnicodeEncodeError carries the whole text; ours does not carry it along."""
    for store in (open_sqlite(), MemoryStore()):
        async with store:
            await fill(store)
            run = await store.last_run()
            assert run is not None
            with pytest.raises(FlowMateError) as caught:
                await store.write(run, [user(CREDENTIAL + "\ud800")])
            assert_shows_nothing(caught.value)


async def test_a_record_that_does_not_open(open_sqlite: OpenSqlite, path: Path) -> None:
    async with open_sqlite() as store:
        await fill(store)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE secrets SET sealed = x'00'")
    connection.close()
    async with open_sqlite() as store:
        with pytest.raises(FlowMateError) as caught:
            await store.get("ann", "s")
        assert_shows_nothing(caught.value)


def test_a_record_that_opens_and_is_no_secret(key: StoreKey) -> None:
    """Its plaintext was in memory, and is not in the error."""
    sealing = Sealing(key, store_id="s", origin="o")
    nonce = os.urandom(12)
    place = sealing._bound(length_prefixed("ann", "s"), "run")
    data = sealing._cipher("seal", "run").encrypt(nonce, CREDENTIAL.encode(), place)
    with pytest.raises(FlowMateError) as caught:
        sealing.open("ann", "s", Sealed("run", nonce + data, b""))
    assert_shows_nothing(caught.value)


async def test_a_store_that_is_busy(open_sqlite: OpenSqlite, path: Path) -> None:
    """In the middle of a write, with the batch at hand."""
    async with open_sqlite() as store:
        await fill(store)
        run = await store.begin_run(at=2.0)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(FlowMateError) as caught:
            await store.write(run, [user()])
        other.close()
        assert_shows_nothing(caught.value)


async def test_a_statement_that_fails_after_sealing(open_sqlite: OpenSqlite) -> None:
    """The frames between the credential and the database are unwound with it."""
    async with open_sqlite() as store:
        await fill(store)
        assert store._connection is not None
        store._connection.execute("DROP TABLE checkpoints")
        run = await store.last_run()
        assert run is not None
        with pytest.raises(FlowMateError) as caught:
            await store.write(run, [user("another " + CREDENTIAL)])
        assert_shows_nothing(caught.value)


async def test_a_wrong_key(open_sqlite: OpenSqlite, path: Path) -> None:
    async with SqliteStore(path, key=StoreKey.generate()):
        pass
    with pytest.raises(FlowMateError) as caught:
        await open_sqlite().__aenter__()
    assert_shows_nothing(caught.value)


def test_a_key_that_is_none(tmp_path: Path) -> None:
    """In the environment, in a file, and of a wrong length."""
    create_private(tmp_path / "key", f"{CREDENTIAL}!".encode())
    with pytest.raises(FlowMateError) as caught:
        load_key({"FLOWMATE_STORE_KEY": f"{CREDENTIAL}!"}, store_url="sqlite:///x")
    assert_shows_nothing(caught.value)
    with pytest.raises(FlowMateError) as caught:
        load_key({"FLOWMATE_STORE_KEY_FILE": str(tmp_path / "key")}, store_url="sqlite:///x")
    assert_shows_nothing(caught.value)
    with pytest.raises(FlowMateError) as caught:
        StoreKey.parse(KEY.hex() + "0")
    assert_shows_nothing(caught.value)


def test_a_private_file_that_is_no_text_or_cannot_be_written(tmp_path: Path) -> None:
    create_private(tmp_path / "token", CREDENTIAL.encode() + b"\xff")
    with pytest.raises(FlowMateError) as caught:
        read_private_text(tmp_path / "token", what="the token file")
    assert_shows_nothing(caught.value)
    for write in (create_private, write_private_atomically):
        with pytest.raises(FlowMateError) as caught:
            write(tmp_path / "missing" / "file", CREDENTIAL.encode())
        assert_shows_nothing(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{CREDENTIAL}@host/db",
        f"postgresql://u@h/db?password={CREDENTIAL}",
        f"postgresql://h/db?sslpass={CREDENTIAL}",
        f"postgresql:///db?user=u&passfile={CREDENTIAL}",
        f"postgresql://{CREDENTIAL}@h/db?x=1",
        f"postgresql://h:{CREDENTIAL}/db",
        f"mysql://u:{CREDENTIAL}@h/db",
        f"openbao://h/secret/x?token={CREDENTIAL}",
        f"openbao://h/secret/x?vault_token={CREDENTIAL}",
        f"openbao://{CREDENTIAL}@h/secret/x",
        f"openbao://h/secret/x?color={CREDENTIAL}",
        f"awssm://eu-central-1/x?secret_access_key={CREDENTIAL}",
        f"awssm://eu-central-1/x?color={CREDENTIAL}",
        f"sqlite:///x.db?key={CREDENTIAL}",
        f"jsonl+age:///x.age#{CREDENTIAL}",
        f"memory:{CREDENTIAL}",
    ],
)
def test_a_url_that_is_refused_is_in_no_frame(url: str, exposed: Callable[[BaseException], str]) -> None:
    """Whatever is wrong with it: somebody may have put a password where it does not belong."""
    with pytest.raises(FlowMateError) as caught:
        open_store(url, key=StoreKey(KEY))
    shown = exposed(caught.value)
    assert CREDENTIAL not in shown
    assert KEY.decode() not in shown


def test_a_key_as_text_is_in_no_frame(exposed: Callable[[BaseException], str]) -> None:
    with pytest.raises(FlowMateError) as caught:
        open_store("sqlite:///x.db", key=KEY.decode())  # type: ignore[arg-type]
    assert KEY.decode() not in exposed(caught.value)


def test_plaintext_does_not_print() -> None:
    assert repr(Plaintext(CREDENTIAL.encode())) == "Plaintext()"
