"""What the tests of transports share: both loops, both transports."""

from functools import cache

import pytest

from flowmate_async.transport.aiohttp import AiohttpTransport
from flowmate_async.transport.tls import client_context
from flowmate_async.transport.wire import WireTransport

context = cache(client_context)  # a context is shared by many clients, and costs more than most tests
TRANSPORTS = {"aiohttp": AiohttpTransport, "wire": WireTransport}


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request):
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture(params=TRANSPORTS)
def transport_name(request):
    return request.param


@pytest.fixture
def make_transport(transport_name):
    """Make the transport to a base URL, with a CA file or a TLS context of its own."""

    def make(url, *, ca_file=None, tls=None):
        return TRANSPORTS[transport_name](url, user_agent="test", tls=tls or context(ca_file=ca_file))

    return make
