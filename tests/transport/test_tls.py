"""TLS on both transports: who is trusted, and that nothing is sent to anybody else."""

import asyncio
import contextlib
import datetime as dt
import socket
import ssl
import threading
import time
import warnings

import pytest
import trustme

from flowmate_async import ConfigurationError, FlowMate, TransportError, UpstreamUnavailableError
from flowmate_async.events import Broken
from flowmate_async.testing.scripted_exchanges import HEADERS, TOKEN
from flowmate_async.testing.scripted_server import ScriptedServer, http
from flowmate_async.testing.transport_suite import LIMITS, exposed, get
from flowmate_async.transport.tls import client_context

pytestmark = pytest.mark.anyio

PAST = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority, tmp_path_factory):
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def context(issuer, name="127.0.0.1", **options):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer.issue_cert(name, **options).configure_cert(made)
    return made


@contextlib.asynccontextmanager
async def old_server(issuer):
    """A server that speaks TLS 1.1 at most; yields its URL and the requests it could read.

    In a thread, since asyncio's own server closes the connection before it has said why.
    """
    tls = context(issuer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        tls.minimum_version = ssl.TLSVersion.TLSv1
        tls.maximum_version = ssl.TLSVersion.TLSv1_1
    tls.set_ciphers("ALL:@SECLEVEL=0")
    requests = []

    def serve(listening):
        with contextlib.suppress(OSError):
            while True:
                plain, _ = listening.accept()
                plain.settimeout(5)
                with (
                    plain,
                    contextlib.suppress(ssl.SSLError),
                    tls.wrap_socket(plain, server_side=True) as end,
                ):
                    requests.append(end.recv(65536))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        yield f"https://127.0.0.1:{listening.getsockname()[1]}", requests
        listening.shutdown(socket.SHUT_RDWR)
    await asyncio.to_thread(thread.join, 5)


@contextlib.asynccontextmanager
async def server_with(tls):
    """A server with this context; yields its URL and the requests it could read."""
    async with ScriptedServer(http(), tls=tls) as server:
        yield server.url, server.requests


UNTRUSTED = {
    "another host": (lambda ours: server_with(context(ours, "elsewhere.example")), "IP address mismatch"),
    "expired": (lambda ours: server_with(context(ours, not_before=PAST, not_after=PAST)), "expired"),
    "an unknown authority": (lambda _: server_with(context(trustme.CA())), "local issuer|self.signed"),
    "TLS 1.1 at most": (old_server, "protocol|version"),
}


@pytest.fixture(params=UNTRUSTED)
def untrusted(request, authority):
    make, reason = UNTRUSTED[request.param]
    return make(authority), reason


async def test_a_trusted_certificate_of_the_right_host_is_accepted(authority, ca_file, make_transport):
    """And its connection is used again."""
    async with (
        ScriptedServer(http(), http(b"[2]"), tls=context(authority)) as server,
        make_transport(server.url, ca_file=ca_file) as made,
    ):
        assert (await get(made)).status == 200
        assert (await made.send("POST", "/x", HEADERS, b"{}" * 40_000, LIMITS)).body == b"[2]"
    assert server.connections == 1


async def test_the_host_name_is_checked_and_said_to_the_server(authority, ca_file, make_transport):
    named = []
    tls = context(authority, "localhost")
    tls.sni_callback = lambda _socket, name, _context: named.append(name)
    async with (
        ScriptedServer(http(), tls=tls) as server,
        make_transport(server.url.replace("127.0.0.1", "localhost"), ca_file=ca_file) as made,
    ):
        assert (await get(made)).status == 200
    assert named == ["localhost"]


async def test_any_other_is_refused_before_anything_is_sent(untrusted, ca_file, make_transport):
    serve, reason = untrusted
    async with serve as (url, requests), make_transport(url, ca_file=ca_file) as made:
        with pytest.raises(TransportError, match=f"(?i){reason}") as refused:
            await get(made)
    assert refused.value.failure == "tls"
    assert requests == []
    assert TOKEN not in exposed(refused.value)


async def test_the_client_says_what_is_wrong_and_what_to_do(untrusted, ca_file, transport_name):
    """Once: a certificate does not become better by asking again."""
    serve, reason = untrusted
    events = []
    async with serve as (url, requests):
        made = FlowMate(
            admin_token=TOKEN,
            base_url=url,
            ca_file=ca_file,
            transport=transport_name,
            on_event=events.append,
        )
        async with made as fm:
            with pytest.raises(UpstreamUnavailableError, match=f"(?i){reason}") as refused:
                await fm.impersonate("u")
    advice = "Check the base URL's host name, the certificate authorities that are trusted"
    assert advice in str(refused.value)
    assert "TLS 1.2 or newer" in str(refused.value)
    assert TOKEN not in exposed(refused.value)
    assert requests == []
    assert [event.failure for event in events if isinstance(event, Broken)] == ["tls"]


async def test_a_certificate_no_system_authority_signed_is_refused_by_default(authority, make_transport):
    async with (
        ScriptedServer(http(), tls=context(authority)) as server,
        make_transport(server.url) as made,
    ):
        with pytest.raises(TransportError, match="tls"):
            await get(made)
    assert server.requests == []


async def test_a_server_that_does_not_speak_tls_is_told_nothing(ca_file, make_transport):
    heard = []

    async def refuse(reader, writer):
        heard.append(await reader.read(65536))
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with make_transport(f"https://127.0.0.1:{port}", ca_file=ca_file) as made:
            with pytest.raises(TransportError) as refused:
                await get(made)
    assert refused.value.failure == "tls"
    assert TOKEN.encode() not in b"".join(heard)


async def test_session_keys_are_never_written_to_a_file(
    authority, ca_file, tmp_path, monkeypatch, transport_name
):
    keys = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(keys))
    async with ScriptedServer(http(), tls=context(authority)) as server:
        made = FlowMate(
            admin_token=TOKEN, base_url=server.url, ca_file=ca_file, rate=None, transport=transport_name
        )
        async with made as fm:
            with pytest.raises(Exception, match="not what the contract documents"):
                await fm.impersonate("u")
    assert len(server.requests) == 1
    assert not keys.exists()


def test_old_versions_of_tls_are_refused():
    made = client_context()
    assert made.minimum_version == ssl.TLSVersion.TLSv1_2
    assert made.check_hostname
    assert made.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("transport", ["aiohttp", "wire"])
def test_the_systems_authorities_are_read_where_something_is_encrypted_only(transport, monkeypatch):
    read = []
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda _, purpose: read.append(purpose))
    for origin in ("http://localhost", "https://flowmate.example"):
        FlowMate(admin_token="admin", base_url=origin, transport=transport)
        assert len(read) == origin.startswith("https")


async def test_who_reads_no_authorities_trusts_nobody(authority, tmp_path):
    async with ScriptedServer(tls=context(authority)) as server:
        host, port = server.url.removeprefix("https://").split(":")
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(host, int(port), ssl=client_context(system=False))


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_an_unusable_ca_file_is_a_configuration_error(tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match="CA file"):
        client_context(ca_file=path)


def test_a_ca_file_that_others_can_change_is_refused(ca_file, tmp_path):
    path = tmp_path / "ca.pem"
    path.write_bytes(ca_file.read_bytes())
    path.chmod(0o646)
    with pytest.raises(ConfigurationError, match="so other users of this machine can change it"):
        client_context(ca_file=path)


@contextlib.contextmanager
def server_with_tickets(issuer):
    """A TLS 1.3 server, in threads: its session tickets come after the handshake, and before any answer."""
    tls, listening = context(issuer), socket.create_server(("127.0.0.1", 0))
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n[1]"

    def serve(connection):
        with contextlib.suppress(OSError), tls.wrap_socket(connection, server_side=True) as secured:
            while secured.recv(65536):
                secured.sendall(answer)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                begin(serve, listening.accept()[0])

    def begin(work, *args):
        threads.append(threading.Thread(target=work, args=args, daemon=True))
        threads[-1].start()

    threads = []
    begin(accept)
    with listening:
        yield f"https://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(10)


async def test_session_tickets_are_not_unsolicited_bytes(make_transport, authority, ca_file):
    """They arrive while the loop is busy, and are unread when the first request is sent."""

    async def keep_busy():
        while True:
            time.sleep(0.01)  # noqa: ASYNC251 - on purpose
            await asyncio.sleep(0)

    with server_with_tickets(authority) as url:
        async with make_transport(url, ca_file=ca_file) as made:
            busy = asyncio.ensure_future(keep_busy())
            answers = await asyncio.gather(*(get(made) for _ in range(8)))
            busy.cancel()
    assert [answer.body for answer in answers] == [b"[1]"] * 8
