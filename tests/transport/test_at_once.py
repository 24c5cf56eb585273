"""Sending without being awaited, on both transports: what happens while a connection is made."""

import asyncio

import pytest

from flowmate_async import Limits, Response, TransportError
from flowmate_async.testing.scripted_exchanges import CAP, HEADERS
from flowmate_async.testing.scripted_server import ScriptedServer, http
from flowmate_async.testing.transport_suite import LIMITS, SHORT, exposed, get

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_blocking")]


class Told:
    """Called once, with the outcome of an exchange."""

    def __init__(self):
        self.outcomes = []
        self.happened = asyncio.Event()

    def __call__(self, outcome):
        self.outcomes.append(outcome)
        self.happened.set()

    async def outcome(self):
        async with asyncio.timeout(5):
            await self.happened.wait()
        (outcome,) = self.outcomes
        return outcome


def send(transport, then, *, path="/5ecr3t-path", limits=LIMITS):
    return transport.send_at_once("GET", path, HEADERS, None, limits, then=then)


async def test_the_first_request_makes_its_connection(make_transport):
    async with ScriptedServer(http(b"[1]"), http(b"[2]")) as server, make_transport(server.url) as made:
        told = Told()
        assert send(made, told)
        assert not told.outcomes
        outcome = await told.outcome()
        assert isinstance(outcome, Response)
        assert outcome.body == b"[1]"
        assert (await get(made)).body == b"[2]"
    assert server.connections == 1


async def test_many_at_once_each_have_their_own(make_transport):
    count = 30
    async with ScriptedServer(*[http()] * count) as server, make_transport(server.url) as made:
        everybody = [Told() for _ in range(count)]
        assert all(send(made, told, path=f"/{at}") for at, told in enumerate(everybody))
        outcomes = [await told.outcome() for told in everybody]
        assert all(isinstance(outcome, Response) for outcome in outcomes)
    paths = sorted(int(request.split(b" ")[1][1:]) for request in server.requests)
    assert paths == list(range(count))


async def test_no_connection_is_told_as_a_value(make_transport):
    async with ScriptedServer() as server:
        pass
    async with make_transport(server.url) as made:
        told = Told()
        assert send(made, told)
        outcome = await told.outcome()
    assert isinstance(outcome, TransportError)
    assert outcome.failure == "connect"
    assert "5ecr3t" not in exposed(outcome)


async def test_the_deadline_includes_making_the_connection(make_transport):
    """The server takes the connection and never says a word of TLS."""
    async with ScriptedServer() as server, make_transport(server.url.replace("http:", "https:")) as made:
        told = Told()
        assert send(made, told, limits=SHORT)
        outcome = await told.outcome()
    assert isinstance(outcome, TransportError)
    assert outcome.failure == "connect"


@pytest.mark.parametrize("turns", [0, 1, 2, 5])
async def test_leaving_the_transport_tells_those_that_still_connect(make_transport, turns):
    async with ScriptedServer() as server:
        async with make_transport(server.url.replace("http:", "https:")) as made:
            told = Told()
            assert send(made, told)
            for _ in range(turns):
                await asyncio.sleep(0)
        assert [outcome.failure for outcome in told.outcomes] == ["connect"]
        assert "5ecr3t" not in exposed(told.outcomes[0])


async def test_what_must_not_be_sent_is_not(make_transport):
    async with ScriptedServer(http()) as server, make_transport(server.url) as made:
        told = Told()
        assert not send(made, told, path="/a b")
        assert (await get(made)).status == 200
    assert told.outcomes == []
    assert len(server.requests) == 1


async def test_the_cap_and_the_method_hold_for_a_new_connection(make_transport):
    limits = Limits(timeout_seconds=10.0, max_body_bytes=CAP)
    script = [http(b"x" * (CAP + 1)), http(b"", length=9)]
    async with ScriptedServer(*script) as server, make_transport(server.url) as made:
        told = Told()
        assert send(made, told, limits=limits)
        assert (await told.outcome()).failure == "too_large"
        told = Told()
        assert made.send_at_once("HEAD", "/", HEADERS, None, limits, then=told)
        assert (await told.outcome()).body == b""


async def test_an_answer_that_nobody_asked_for_is_told_to_nobody(make_transport):
    """It closes the connection, whose last exchange has already reported its outcome."""
    async with ScriptedServer(http(b"[1]"), http(b"[2]")) as server, make_transport(server.url) as made:
        told = Told()
        assert send(made, told)
        assert (await told.outcome()).body == b"[1]"
        await server.say(http(b'"unasked"').pieces[0])
        await server.gone()
        assert (await get(made)).body == b"[2]"
    assert [answer.body for answer in told.outcomes] == [b"[1]"]
