"""docs/contract/OBSERVED.md § Connections, and a prompt stop."""

import asyncio
import socket
import ssl
from typing import Any

import aiohttp
import pytest
import trustme

from flowmate_async.sandbox import ProviderFault, Sandbox, SandboxOptions, serve_forever

pytestmark = pytest.mark.anyio

ALICE = "user-000000@tenant.example"


def port_of(sandbox: Sandbox) -> int:
    return int(sandbox.url.rpartition(":")[2])


async def connect(sandbox: Sandbox) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port_of(sandbox))


async def speak(reader: Any, writer: Any, path: str = "/secrets/") -> bytes:
    """Send one request by hand and read its answer's head and body."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: sandbox\r\nAccept-Encoding: gzip\r\n\r\n".encode())
    head: bytes = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
    await reader.readexactly(length)
    return head


async def test_it_listens_on_the_loopback_interface_only(running: Any) -> None:
    """Credentials, even invented ones, are private."""
    async with running() as (sandbox, _):
        assert sandbox.url.startswith("http://127.0.0.1:")
        assert port_of(sandbox) != 0


@pytest.mark.observes("Connections", "No compression")
async def test_a_connection_is_kept_for_many_requests(running: Any) -> None:
    """Every answer says `Keep-Alive: timeout=5`, and nothing is compressed."""
    async with running() as (sandbox, _):
        reader, writer = await connect(sandbox)
        for _ in range(3):
            head = await speak(reader, writer)
            assert b"Keep-Alive: timeout=5\r\n" in head
            assert b"content-encoding" not in head.lower()
        writer.close()


@pytest.mark.observes("Connections", "`Keep-Alive: timeout=5`")
async def test_an_idle_connection_is_closed(running: Any) -> None:
    """After about 6 s, here sooner: the end of the stream, without a word."""
    async with running(idle_close_seconds=0.05) as (sandbox, _):
        reader, writer = await connect(sandbox)
        assert b"Keep-Alive: timeout=5\r\n" in await speak(reader, writer)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_it_stops_at_once_with_a_request_hanging_and_leaves_nothing(until: Any) -> None:
    """No task, no open connection and no listener stay behind."""
    before = asyncio.all_tasks()
    async with Sandbox(SandboxOptions(provider_fault=ProviderFault.HANG)) as sandbox:
        secret = sandbox.world.add_secret(
            ALICE, type="SESSION_AUTH", value={"authClientId": "0" * 24, "expires": None}
        )
        user = sandbox.world.user(ALICE)
        assert user is not None
        token = sandbox.world.tokens.issue(user).token
        reader, writer = await connect(sandbox)
        idle = await connect(sandbox)
        await speak(*idle)
        writer.write(
            f"GET /secrets/{secret.id} HTTP/1.1\r\nHost: sandbox\r\n"
            f"Authorization: Bearer {token}\r\n\r\n".encode()
        )
        await until(lambda: sandbox.stats().refreshes)
        assert sandbox.stats().in_flight == 1
    assert asyncio.all_tasks() == before
    assert sandbox.stats().in_flight == 0
    async with asyncio.timeout(5):
        assert await reader.read() == b""
        assert await idle[0].read() == b""
    with pytest.raises(ConnectionRefusedError):
        await connect(sandbox)
    for end in (writer, idle[1]):
        end.close()


async def test_it_can_stop_in_the_middle_of_a_cancellation(until: Any) -> None:
    """A cancelled test does not leave a listener behind either."""
    seen: list[Sandbox] = []

    async def serve() -> None:
        await serve_forever(SandboxOptions(users=1), seen.append)

    serving = asyncio.create_task(serve())
    await until(lambda: seen)
    reader, writer = await connect(seen[0])
    await speak(reader, writer)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    with pytest.raises(ConnectionRefusedError):
        await connect(seen[0])
    writer.close()


async def test_a_port_can_be_asked_for() -> None:
    """`port` is the one that is listened on, and can be used again afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for _ in range(2):
        async with Sandbox(SandboxOptions(port=port)) as sandbox:
            assert port_of(sandbox) == port


async def test_it_speaks_tls(running: Any) -> None:
    """With an `ssl_context` the URL is https, and who trusts the authority gets through."""
    authority = trustme.CA()
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(served)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with running(ssl_context=served) as (sandbox, _), aiohttp.ClientSession() as session:
        assert sandbox.url.startswith("https://127.0.0.1:")
        async with session.get(f"{sandbox.url}/secrets/", ssl=trusting) as response:
            assert response.status == 401


async def test_two_sandboxes_share_nothing(running: Any) -> None:
    """Each has its own port, admin token and world."""
    async with running(seed=1) as (one, _), running(seed=1) as (other, call):
        assert one.url != other.url
        assert one.admin_token != other.admin_token
        one.world.add_user("only-here")
        assert other.world.user("only-here") is None
        reply = await call.get("/users/", one.admin_token)
        assert reply.status == 401


def test_a_sandbox_does_not_show_its_token() -> None:
    """`repr` names the address only."""
    sandbox = Sandbox(SandboxOptions(admin_token="chosen-admin-token"))
    assert sandbox.admin_token == "chosen-admin-token"
    assert "chosen" not in repr(sandbox)
