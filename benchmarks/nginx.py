"""nginx with canned answers: one worker on one core, HTTP and HTTPS, in a folder that vanishes with it."""

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import trustme

from flowmate_async.bench.canned import ANSWERS, CannedResponse
from flowmate_async.bench.rounds import Target

_CONFIGURATION = """
daemon off; master_process on; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
{affinity}
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_timeout 600; keepalive_requests 1000000000; etag off; server_tokens off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{http} backlog=1024;
        listen 127.0.0.1:{https} ssl backlog=1024;
        ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.key;
        ssl_protocols TLSv1.3;
{locations}
    }}
}}
"""
_START_SECONDS = 10.0


class Nginx(NamedTuple):
    """Where it listens."""

    http: Target
    https: Target
    version: str


def installed() -> bool:
    """Whether there is one here."""
    return shutil.which("nginx") is not None


@contextlib.asynccontextmanager
async def running(core: int | None) -> AsyncIterator[Nginx]:
    """nginx, its worker on this core, or on any."""
    with TemporaryDirectory(prefix="flowmate-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        ca_file = _certificates(folder)
        http, https = _free_ports(2)
        locations = "\n".join(_location(path, answer) for path, answer in ANSWERS.items())
        affinity = "" if core is None else f"worker_cpu_affinity {1 << core:b};"
        configuration = _CONFIGURATION.format(
            folder=folder, affinity=affinity, http=http, https=https, locations=locations
        )
        (folder / "nginx.conf").write_text(configuration)
        process = await asyncio.create_subprocess_exec("nginx", "-c", str(folder / "nginx.conf"))
        try:
            await _listening(https)
            yield Nginx(
                Target(url=f"http://127.0.0.1:{http}"),
                Target(url=f"https://127.0.0.1:{https}", ca_file=ca_file),
                await _version(),
            )
        finally:
            process.terminate()
            await process.wait()


def _location(path: str, answer: CannedResponse) -> str:
    """One answer, from memory, with the headers of the real service."""
    (media_type, *headers) = answer.headers
    lines = [f'add_header {name} "{_quoted(value)}";' for name, value in headers]
    body = _quoted(answer.body.decode())
    return (
        f'        location = {path} {{ default_type "{media_type[1]}"; {" ".join(lines)} '
        f'return 200 "{body}"; }}'
    )


def _quoted(text: str) -> str:
    if "$" in text:
        raise ValueError("nginx would take it for a variable")
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _certificates(folder: Path) -> str:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.private_key_pem.write_to_path(folder / "server.key")
    for position, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(folder / "server.pem", append=position > 0)
    return str(folder / "ca.pem")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


async def _listening(port: int) -> None:
    async with asyncio.timeout(_START_SECONDS):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)


async def _version() -> str:
    process = await asyncio.create_subprocess_exec("nginx", "-v", stderr=asyncio.subprocess.PIPE)
    _, told = await process.communicate()
    return told.decode().strip().rpartition("/")[2]
