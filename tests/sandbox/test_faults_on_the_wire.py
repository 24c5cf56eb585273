"""Faults of the connection: what a caller sees byte by byte, and whether its request was processed."""

import asyncio
import ssl
import time
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest
import trustme

from flowmate_async.sandbox import Faults, Sandbox, SandboxOptions, faults

pytestmark = pytest.mark.anyio

ALICE = "user-000000@tenant.example"


class Scene:
    """A sandbox with a secret whose every GET refreshes, and a connection to it."""

    def __init__(self, sandbox: Any, line: Any, secret: Any, token: str) -> None:
        self.sandbox, self.line, self.secret, self.token = sandbox, line, secret, token

    def ask(self) -> None:
        self.line.ask(f"/secrets/{self.secret.id}", self.token)

    def struck(self) -> dict[str, int]:
        found: dict[str, int] = self.sandbox.stats().faults
        return found

    @property
    def processed(self) -> int:
        return sum(self.sandbox.stats().refreshes.values())


@pytest.fixture
def scene(running: Any, dial: Any) -> Any:
    """Return a context manager for a sandbox in which these fault rules are active."""

    @asynccontextmanager
    async def set_up(*rules: faults.Fault) -> Any:
        # What closes here is closed by a fault, never because it was idle.
        async with running(idle_close_seconds=60) as (sandbox, _):
            value = {"authClientId": "1" * 24, "accessToken": "t", "inputFields": {"a": "b"}, "expires": None}
            secret = sandbox.world.add_secret(ALICE, type="SESSION_AUTH", value=value)
            token = sandbox.world.tokens.issue(sandbox.world.user(ALICE)).token
            sandbox.configure(faults=Faults(seed=1, rules=rules))
            yield Scene(sandbox, await dial(sandbox.url), secret, token)

    return set_up


def declared(came: bytes) -> tuple[int, bytes]:
    """Content-Length, and what came behind the headers."""
    head, _, body = came.partition(b"\r\n\r\n")
    return int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0]), body


@pytest.mark.parametrize(
    ("fault", "processed"),
    [(faults.Reset(), 0), (faults.ResetAfter(), 1), (faults.Refused(seconds=0), 0)],
)
async def test_a_reset_before_the_answer_sends_nothing(scene: Any, fault: Any, processed: int) -> None:
    """The caller sees the same; only the world tells whether it was processed."""
    async with scene(fault) as at:
        at.ask()
        assert await at.line.rest() == (b"", "reset")
        assert (at.processed, at.struck()) == (processed, {fault.kind: 1})
        assert at.sandbox.stats().requests == {}


async def test_an_answer_that_is_played_tells_the_time_as_every_other_does(scene: Any) -> None:
    """RFC 9110 § 6.6.1: a server with a clock sends ``Date``."""
    async with scene(faults.StaleNextRequest(at_most=1)) as at:
        at.ask()
        played = (await at.line.reply()).headers["date"]
        assert abs(parsedate_to_datetime(played).timestamp() - time.time()) < 30


async def test_a_reset_in_the_headers_leaves_them_unfinished(scene: Any) -> None:
    """A status line, some headers, no end of them."""
    async with scene(faults.ResetInHeaders()) as at:
        at.ask()
        came, end = await at.line.rest()
        assert came.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\n\r\n" not in came
        assert (end, at.processed) == ("reset", 1)


@pytest.mark.parametrize(("fault", "end"), [(faults.ResetInBody(), "reset"), (faults.Truncated(), "closed")])
async def test_a_body_that_ends_too_early(scene: Any, fault: Any, end: str) -> None:
    """Half of what `Content-Length` promises, then a reset or an orderly end."""
    async with scene(fault) as at:
        at.ask()
        came, ended = await at.line.rest()
        length, body = declared(came)
        assert 0 < len(body) < length
        assert (ended, at.processed) == (end, 1)


async def test_a_body_that_is_too_long(scene: Any) -> None:
    """The promised body is whole and true; other bytes follow on the open connection."""
    async with scene(faults.Overlong(at_most=1)) as at:
        at.ask()
        reply = await at.line.reply()
        assert reply.json()["data"]["_id"] == at.secret.id
        assert (await at.line.come(15)).startswith(b"HTTP/1.1 200 OK")
        assert at.sandbox.stats().requests == {"GET /secrets/{id}": {200: 1}}


async def test_a_content_length_that_is_too_small(scene: Any) -> None:
    """The rest of the JSON stands where the next answer would begin."""
    async with scene(faults.WrongLength()) as at:
        at.ask()
        reply = await at.line.reply()
        with pytest.raises(ValueError, match="truncated"):
            reply.json()
        rest = await at.line.come(len(reply.body))
        assert rest[-1:] == b"}" or (await at.line.come(1)) == b"}"


async def test_an_answer_in_single_bytes_is_true_and_slow(scene: Any) -> None:
    """Slow loris: nothing is wrong but the pace."""
    async with scene(faults.SlowLoris(seconds=0.0001, piece_bytes=1, at_most=1)) as at:
        at.ask()
        assert (await at.line.reply()).json()["data"]["_id"] == at.secret.id
        at.ask()
        assert (await at.line.reply()).status == 200


async def test_a_stale_connection_closes_after_an_answer_that_promised_more(scene: Any) -> None:
    """No `Connection: close` warned of it."""
    async with scene(faults.StaleKeepAlive()) as at:
        at.ask()
        came, end = await at.line.rest()
        length, body = declared(came)
        assert (len(body), end) == (length, "closed")
        assert b"connection: close" not in came.lower()
        assert b"Keep-Alive: timeout=5" in came


async def test_the_next_request_on_a_stale_connection_is_reset_unprocessed(scene: Any, dial: Any) -> None:
    """No race: the next one always meets it, and only on this connection."""
    async with scene(faults.StaleNextRequest(at_most=1)) as at:
        at.ask()
        assert (await at.line.reply()).status == 200
        at.ask()
        assert await at.line.rest() == (b"", "reset")
        assert at.processed == 1
        at.line = await dial(at.sandbox.url)
        at.ask()
        assert (await at.line.reply()).status == 200
        assert at.struck() == {"stale_next_request": 1}


async def test_a_stale_connection_stays_stale_when_the_faults_are_taken_away(scene: Any) -> None:
    """What was done to a connection is not undone by settings."""
    async with scene(faults.StaleNextRequest()) as at:
        at.ask()
        assert (await at.line.reply()).status == 200
        at.sandbox.configure(faults=Faults())
        at.ask()
        assert await at.line.rest() == (b"", "reset")


@pytest.mark.parametrize(("fault", "processed"), [(faults.Hang, 0), (faults.HangAfter, 1)])
async def test_a_request_hangs_until_its_caller_goes(
    scene: Any, until: Any, fault: Any, processed: int
) -> None:
    """It is in flight as long as somebody waits, and no longer."""
    async with scene(fault()) as at:
        at.ask()
        await until(lambda: at.struck() and at.processed == processed)
        assert at.sandbox.stats().in_flight == 1
        at.line.close()
        await until(lambda: at.sandbox.stats().in_flight == 0)


@pytest.mark.parametrize("fault", [faults.Hang, faults.HangAfter, faults.HangInBody])
async def test_a_silence_can_have_an_end(scene: Any, fault: Any) -> None:
    """Then the connection closes without another byte."""
    async with scene(fault(seconds=0.01)) as at:
        at.ask()
        came, end = await at.line.rest()
        assert end == "closed"
        assert fault is faults.HangInBody or came == b""


@pytest.mark.parametrize(
    "fault",
    [
        faults.Hang(),
        faults.HangAfter(),
        faults.HangInBody(),
        faults.SlowLoris(seconds=60),
        faults.Refused(seconds=60),
    ],
    ids=lambda fault: fault.kind,
)
async def test_a_sandbox_with_a_fault_under_way_stops_at_once_and_leaves_nothing(
    dial: Any, until: Any, fault: Any
) -> None:
    """No task and no listener stay behind, whatever hangs; a hundred callers at once."""
    before = asyncio.all_tasks()
    rules = Faults(rules=(fault,))
    async with Sandbox(SandboxOptions(faults=rules)) as sandbox:
        lines = [await dial(sandbox.url) for _ in range(100)]
        token = sandbox.world.tokens.issue(sandbox.world.user(ALICE)).token
        for line in lines:
            line.ask("/secrets/", token)
        await until(lambda: sandbox.stats().faults.get(fault.kind) == len(lines))
    assert asyncio.all_tasks() == before
    assert sandbox.stats().in_flight == 0
    for line in lines:
        assert (await line.rest())[1] in ("closed", "reset")
    with pytest.raises(ConnectionRefusedError):
        await dial(sandbox.url)


async def test_refused_connections_come_back_on_the_same_port(scene: Any, dial: Any, until: Any) -> None:
    """While the listener is away connecting fails, open connections live on, and then all is as before."""
    async with scene(faults.Refused(seconds=0.2, skip=1, at_most=1)) as at:
        survivor = await dial(at.sandbox.url)
        survivor.ask("/nothing")
        assert (await survivor.reply()).status == 404
        at.ask()
        assert (await at.line.rest())[1] == "reset"
        with pytest.raises(ConnectionRefusedError):
            await dial(at.sandbox.url)
        survivor.ask("/nothing")
        assert (await survivor.reply()).status == 404
        for _ in range(1000):
            try:
                line = await dial(at.sandbox.url)
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.005)
        line.ask("/nothing")
        assert (await line.reply()).status == 404


async def test_an_answer_without_a_body_cannot_be_cut(scene: Any) -> None:
    """A HEAD request gets its headers and nothing else, whatever the fault."""
    async with scene(faults.Overlong()) as at:
        at.line.ask("/nothing", method="HEAD")
        at.line.ask("/nothing", method="HEAD")
        came = await at.line.come(200)
        assert came.count(b"HTTP/1.1 404") >= 1
        assert b"html>" not in came


async def test_faults_work_under_tls_too(running: Any) -> None:
    """A reset is a reset."""
    authority, served = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(served)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    rules = Faults(rules=(faults.Reset(at_most=1), faults.Truncated(skip=1)))
    async with running(ssl_context=served, faults=rules) as (sandbox, _), aiohttp.ClientSession() as session:
        for _ in range(2):
            with pytest.raises((aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)):
                async with session.post(f"{sandbox.url}/impersonate", ssl=trusting) as response:
                    await response.read()
        assert sandbox.stats().faults == {"reset": 1, "truncated": 1}
