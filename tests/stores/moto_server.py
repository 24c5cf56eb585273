"""A stand-in for AWS for the tests: moto's server, in memory, which speaks the service's own protocol."""

import contextlib
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from .processes import free_port, running

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "the-key-id-of-the-tests",
    "AWS_SECRET_ACCESS_KEY": "the-access-key-of-the-tests",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass
class MotoServer:
    """A running server."""

    port: int

    @property
    def endpoint(self) -> str:
        """What ``AWS_ENDPOINT_URL`` is set to."""
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def moto_server() -> Iterator[MotoServer]:
    """Start a server; it ends with the block, and also with this process, however that ends."""
    server = MotoServer(free_port())
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(server.port)]

    def answers() -> bool:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            return urllib.request.urlopen(f"{server.endpoint}/moto-api/data.json", timeout=10).status == 200
        return False

    with running(command, answers, env={**os.environ, **ENVIRONMENT}):
        yield server
