"""The laws of a transport that can also send without a task, an :class:`ImmediateTransport`."""

# ruff: noqa: S101 - these are tests

import asyncio

import pytest

from flowmate_async.testing.scripted_exchanges import (
    BROKEN,
    CAP,
    HEADERS,
    LIMITS,
    SHORT,
    OpenTransport,
    exposed,
    get,
)
from flowmate_async.testing.scripted_server import SILENCE, ScriptedServer, http
from flowmate_async.transport.base import (
    ImmediateTransport,
    Limits,
    OnDone,
    Response,
    Transport,
    TransportError,
)

__all__ = ["ImmediateLaws"]


class ImmediateLaws:
    """Tests for :class:`TransportSuite`; a transport of another kind skips them."""

    async def test_what_is_sent_at_once_is_answered_later_and_once(
        self, open_transport: OpenTransport
    ) -> None:
        """No callback runs before the call has returned; a complete answer equals that of send()."""
        async with ScriptedServer(http(), http(b"[2]")) as server, open_transport(server.url) as transport:
            await get(transport)
            told: asyncio.Queue[Response | Exception] = asyncio.Queue()
            assert _at_once(transport, told.put_nowait)
            assert told.empty()
            async with asyncio.timeout(5):
                outcome = await told.get()
            assert isinstance(outcome, Response)
            assert (outcome.status, outcome.body) == (200, b"[2]")
            await asyncio.sleep(0.01)
            assert told.empty()
            assert len(server.requests) == 2

    @pytest.mark.parametrize("name", BROKEN)
    async def test_what_breaks_at_once_is_told_as_a_value(
        self, open_transport: OpenTransport, name: str
    ) -> None:
        """The same failure as send() raises, and nothing of the request in it."""
        answer, failures = BROKEN[name]
        async with ScriptedServer(http(), answer) as server, open_transport(server.url) as transport:
            await get(transport)
            told: asyncio.Queue[Response | Exception] = asyncio.Queue()
            assert _at_once(transport, told.put_nowait)
            async with asyncio.timeout(5):
                outcome = await told.get()
            assert isinstance(outcome, TransportError)
            assert outcome.failure in failures
            assert "5ecr3t" not in exposed(outcome)

    async def test_what_is_sent_at_once_ends_at_its_deadline_too(self, open_transport: OpenTransport) -> None:
        """The earlier deadline fires first, regardless of the sending order, and its connection closes."""
        told: asyncio.Queue[tuple[str, Response | Exception]] = asyncio.Queue()

        def tell(name: str) -> OnDone:
            return lambda outcome: told.put_nowait((name, outcome))

        script = [http(), http(), SILENCE, SILENCE]
        async with ScriptedServer(*script) as server, open_transport(server.url) as transport:
            await asyncio.gather(get(transport), get(transport))
            later = Limits(timeout_seconds=0.3, max_body_bytes=CAP)
            assert _at_once(transport, tell("later"), later)
            assert _at_once(transport, tell("sooner"), SHORT)
            async with asyncio.timeout(5):
                ends = [await told.get(), await told.get()]
                await server.gone()
        assert [name for name, _ in ends] == ["sooner", "later"]
        assert [end.failure for _, end in ends if isinstance(end, TransportError)] == ["timeout"] * 2

    async def test_leaving_it_ends_what_was_sent_at_once(self, open_transport: OpenTransport) -> None:
        """No caller keeps waiting for an answer that cannot come."""
        told: list[Response | Exception] = []
        async with ScriptedServer(http(), SILENCE) as server:
            async with open_transport(server.url) as transport:
                await get(transport)
                assert _at_once(transport, told.append)
                await asyncio.sleep(0.05)
                assert not told
            assert [type(outcome) for outcome in told] == [TransportError]

    async def test_leaving_it_ends_what_was_sent_in_this_very_step(
        self, open_transport: OpenTransport
    ) -> None:
        """The exchange may not have started."""
        told: list[Response | Exception] = []
        async with ScriptedServer(http(), SILENCE) as server:
            async with open_transport(server.url) as transport:
                await get(transport)
                assert _at_once(transport, told.append)
            assert [type(outcome) for outcome in told] == [TransportError]
            assert not _at_once(transport, told.append)


def _at_once(transport: Transport, then: OnDone, limits: Limits = LIMITS) -> bool:
    if not isinstance(transport, ImmediateTransport):
        pytest.skip("not an ImmediateTransport")
    return transport.send_at_once("GET", "/secrets/5ecr3t-path", HEADERS, None, limits, then=then)
