"""What the tests of transports share: both loops, both transports."""

import pytest

from flowmate_async.transport.aiohttp import AiohttpTransport
from flowmate_async.transport.tls import client_context
from flowmate_async.transport.wire import WireTransport

TRANSPORTS = {"aiohttp": AiohttpTransport, "wire": WireTransport}


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request):
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture(params=TRANSPORTS)
def transport_name(request):
    return request.param


@pytest.fixture
def make_transport(transport_name):
    """Make the transport to a base URL, with a CA file and options of its own."""

    def make(url, *, ca_file=None):
        return TRANSPORTS[transport_name](url, user_agent="test", tls=client_context(ca_file=ca_file))

    return make
