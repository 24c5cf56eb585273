"""The public contract suite, on the transports of the library and on both loops."""

import pytest

from flowmate_async.testing.transport_suite import TransportSuite


class TestBothTransports(TransportSuite):
    @pytest.fixture(params=["asyncio", pytest.param("uvloop", marks=pytest.mark.long)])
    def anyio_backend(self, request):
        return "asyncio", {"use_uvloop": request.param == "uvloop"}

    @pytest.fixture
    def open_transport(self, make_transport, no_blocking):
        return make_transport
