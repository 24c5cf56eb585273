"""Every call of a driver or HTTP client leaves without its frames: after errors, timeouts and cancellation.

The drivers' frames hold the Vault token, ``PGPASSWORD``, AWS keys and bodies among their locals, and error
trackers print the locals of every frame. The walk covers all stores with a driver and the keyring.
"""

import asyncio
import sys
import types
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from flowmate_async.errors import ConfigurationError, FlowMateError
from flowmate_async.stores import Store, StoreKey, load_key, open_store
from flowmate_async.system.keyring import ask_keyring
from flowmate_async.testing.samples import api_key
from flowmate_async.testing.store_writes import synced, write

pytestmark = pytest.mark.anyio

PLANTED = "planted-password-0123456789"
CREDENTIAL = "planted-credential-0123456789"

Exposed = Callable[[BaseException], str]
Ending = Callable[[Awaitable[object], asyncio.Event], Awaitable[BaseException]]


@dataclass
class Server:
    """Accepts everything, and hangs or hangs up once it was asked something."""

    hangs: bool
    port: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(65536):
                self.asked.set()
                if not self.hangs:
                    break
        except ConnectionError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def listening(*, hangs: bool) -> AsyncIterator[Server]:
    made = Server(hangs)
    async with await asyncio.start_server(made.serve, "127.0.0.1", 0) as server:
        made.port = server.sockets[0].getsockname()[1]
        yield made
        server.close()


async def cancelled(work: Awaitable[object], asked: asyncio.Event) -> BaseException:
    """Cancel it from outside once the server was asked."""
    task = asyncio.ensure_future(work)
    await asyncio.wait({task, asyncio.ensure_future(asked.wait())}, return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    return caught.value


async def timed_out(work: Awaitable[object], asked: asyncio.Event) -> BaseException:
    """Let a caller's deadline pass once the server was asked."""
    deadline = asyncio.timeout(None)

    async def expire() -> None:
        await asked.wait()
        with suppress(RuntimeError):  # the work was done before
            deadline.reschedule(asyncio.get_running_loop().time())

    async def limited() -> None:
        async with deadline:
            await work

    expiring = asyncio.ensure_future(expire())
    try:
        with pytest.raises(TimeoutError) as caught:
            await limited()
    finally:
        await expiring
    return caught.value


async def failed(work: Awaitable[object], asked: asyncio.Event) -> BaseException:
    """Let it fail by itself: the server hangs up."""
    with pytest.raises(FlowMateError) as caught:
        await work
    assert asked.is_set()
    return caught.value


@pytest.fixture(params=["openbao", "postgresql", "awssm"])
def store_at(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Store]:
    """A store of each driver at a port, with planted credentials where the driver looks for them."""
    monkeypatch.setenv("BAO_TOKEN", PLANTED)
    monkeypatch.setenv("PGPASSWORD", PLANTED)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "invented")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PLANTED)
    monkeypatch.setattr("flowmate_async.stores.openbao.store._FIRST_PAUSE_SECONDS", 0.001)

    def made(port: int) -> Store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        if request.param == "postgresql":
            return open_store(f"postgresql://u@127.0.0.1:{port}/db", key=StoreKey.generate())
        if request.param == "openbao":
            return open_store(f"openbao://127.0.0.1:{port}/secret/fm?tls=off")
        return open_store("awssm://eu-central-1/fm")

    return made


@pytest.mark.parametrize("ending", [cancelled, timed_out, failed])
async def test_opening_a_store_shows_no_password(
    store_at: Callable[[int], Store],
    ending: Ending,
    exposed: Exposed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    async with listening(hangs=ending is not failed) as server:
        error = await ending(store_at(server.port).__aenter__(), server.asked)
    assert PLANTED not in exposed(error)


async def _read(store: Store) -> None:
    await store.get("ann", "secret-1")


async def _write(store: Store) -> None:
    run = await store.last_run()
    assert run is not None
    await store.write(run, [synced("ann", api_key(key=CREDENTIAL))])


async def _list(store: Store) -> None:
    async for _ in store.items():
        pass


async def _hold(store: Store) -> None:
    async with store.exclusive_run():
        pass


USES = [
    (kind, work)
    for kind in ("openbao", "postgresql", "awssm")
    for work in (_read, _write, _list, _hold)
    # asyncpg leaves a future with an error behind when its connecting is cancelled.
    if (kind, work) != ("postgresql", _hold)
]


async def test_reading_a_document_in_parts_shows_none_of_them(aws_url: str, exposed: Exposed) -> None:
    """While a part is fetched, the ones before it are in memory."""
    async with open_store(aws_url) as store:
        run = await write(store, synced("ann", api_key(key=CREDENTIAL + "x" * 200_000)))
        interrupted = 0
        for steps in range(1, 400, 7):
            error = await _interrupted(store.note_missing(run, ["ann"]), cancelled, steps)
            interrupted += error is not None
            assert error is None or CREDENTIAL not in exposed(error)
    assert interrupted > 5


@pytest.mark.parametrize(("kind", "work"), USES)
@pytest.mark.parametrize("ending", [cancelled, timed_out])
async def test_using_a_store_shows_no_password_and_no_credential(
    kind: str,
    ending: Ending,
    work: Callable[[Store], Awaitable[None]],
    request: pytest.FixtureRequest,
    exposed: Exposed,
) -> None:
    """Against real servers, cancelled at each point where the work waits."""
    url, key, secrets = _place(kind, request)
    async with open_store(url, key=key) as store:
        await write(store, synced("ann", api_key(key=CREDENTIAL + "-before")))
        for steps in (1, 3, 8, 21):
            error = await _interrupted(work(store), ending, steps)
            shown = "" if error is None else exposed(error)
            assert not [secret for secret in (*secrets, CREDENTIAL) if secret in shown]


async def _interrupted(work: Awaitable[None], ending: Ending, steps: int) -> BaseException | None:
    """End the work after some turns of the loop; ``None`` when it was done before."""
    due = asyncio.Event()

    async def count() -> None:
        for _ in range(steps):
            await asyncio.sleep(0)
        due.set()

    counting = asyncio.ensure_future(count())
    try:
        return await ending(work, due)
    except pytest.fail.Exception:
        return None
    finally:
        await counting


def _place(kind: str, request: pytest.FixtureRequest) -> tuple[str, StoreKey | None, list[str]]:
    if kind == "postgresql":
        server = request.getfixturevalue("postgres")
        return server.url(request.getfixturevalue("schema")), StoreKey.generate(), [server.password]
    if kind == "openbao":
        return request.getfixturevalue("openbao_url"), None, [request.getfixturevalue("openbao").token]
    return request.getfixturevalue("aws_url"), None, ["the-access-key-of-the-tests"]


def broken_keyring(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def get_password(service: str, name: str) -> str:
        password = f"{PLANTED} of {service} {name}"
        assert password
        raise error

    keyring = types.ModuleType("keyring")
    keyring.__dict__["get_password"] = get_password
    monkeypatch.setitem(sys.modules, "keyring", keyring)


def test_a_keyring_that_is_interrupted_shows_no_password(
    monkeypatch: pytest.MonkeyPatch, exposed: Exposed
) -> None:
    broken_keyring(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt) as caught:
        ask_keyring("service", "name")
    assert PLANTED not in exposed(caught.value)


@pytest.mark.parametrize("kind", ["DBusError", "RuntimeError", "ModuleNotFoundError"])
def test_a_keyring_with_errors_of_its_own_is_named(
    kind: str, monkeypatch: pytest.MonkeyPatch, exposed: Exposed
) -> None:
    """A backend that is missing raises ``ModuleNotFoundError``, those of D-Bus errors of their own."""
    error = {"ModuleNotFoundError": ModuleNotFoundError("nope", name="nope")}.get(kind)
    broken_keyring(monkeypatch, error or type(kind, (Exception,), {})(PLANTED))
    with pytest.raises(ConfigurationError, match=f"does not answer: {kind}") as caught:
        load_key({}, store_url="sqlite:///x.db")
    assert PLANTED not in exposed(caught.value)
