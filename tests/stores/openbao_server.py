"""A real OpenBao for the tests: its development server, in memory."""

import contextlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from .processes import free_port, running

TOKEN = "the-token-of-the-tests"


@dataclass
class OpenBaoServer:
    """A running server, whose KV engine is mounted at ``secret``."""

    port: int
    token: str = TOKEN

    def url(self, path: str, **options: str) -> str:
        """The URL of a store."""
        more = "".join(f"&{name}={value}" for name, value in options.items())
        return f"openbao://127.0.0.1:{self.port}/secret/{path}?tls=off{more}"

    def ask(self, method: str, path: str, body: object = None) -> dict:
        """What the server answers."""
        data = None if body is None else msgspec.json.encode(body)
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/{path}", data=data, method=method)
        request.add_header("X-Vault-Token", self.token)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return msgspec.json.decode(answer.read() or b"{}")

    def wait_until_gone(self, path: str) -> None:
        """Wait until the server no longer shows a document, as when it expires."""
        while True:
            try:
                self.ask("GET", path)
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return
                raise
            time.sleep(0.05)


@contextlib.contextmanager
def openbao_server(program: Path, home: Path) -> Iterator[OpenBaoServer]:
    """Start a server; it ends with the block, and also with this process, however that ends."""
    server = OpenBaoServer(free_port())
    command = [
        program,
        *("server", "-dev", "-dev-no-store-token", f"-dev-root-token-id={TOKEN}"),
        f"-dev-listen-address=127.0.0.1:{server.port}",
    ]

    def answers() -> bool:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            return bool(server.ask("GET", "secret/config"))
        return False

    with running(command, answers, env={**os.environ, "HOME": str(home)}):
        yield server
