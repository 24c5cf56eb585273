"""A real PostgreSQL for the tests: from nothing in two seconds, on a free port, gone with the process."""

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trustme

PASSWORD = "the-password-of-the-database"
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "60",
    "ssl": "on",
    "ssl_cert_file": "server.pem",
    "ssl_key_file": "server.key",
}


@dataclass
class PostgresServer:
    """A running server; its role is a superuser of that password."""

    bin: Path
    data: Path
    port: int
    authority: Path
    user: str = "tester"
    password: str = PASSWORD
    process: subprocess.Popen | None = field(default=None, repr=False)

    def url(self, schema: str, **options: str) -> str:
        """The URL of a store."""
        more = "".join(f"&{name}={value}" for name, value in options.items())
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/postgres?schema={schema}{more}"

    def psql(self, statement: str, schema: str = "public") -> str:
        """What the server answers to its own client."""
        command = [
            self.bin / "psql",
            *("-h", "127.0.0.1", "-p", str(self.port), "-U", self.user, "-d", "postgres"),
            *("-At", "-v", "ON_ERROR_STOP=1", "-c", statement),
        ]
        env = {**os.environ, "PGPASSWORD": self.password, "PGOPTIONS": f"-c search_path={schema}"}
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def postgres_server(program: Path) -> Iterator[PostgresServer]:
    """Start a server; it ends with the block, and also with this process, however that ends."""
    folder = Path(tempfile.mkdtemp(prefix="flowmate-postgres-"))
    try:
        server = _prepared(program.resolve().parent, folder)
        settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        server.process = _popen(
            [server.bin / "postgres", "-D", server.data, "-p", str(server.port), *settings]
        )
        try:
            _await_answer(server)
            yield server
        finally:
            server.process.send_signal(signal.SIGINT)  # "fast shutdown": cut clients off, close files
            server.process.wait(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _prepared(bin_: Path, folder: Path) -> PostgresServer:
    folder.chmod(0o711)
    data = folder / "data"
    data.mkdir(mode=0o700)
    password = folder / "password"
    password.write_text(PASSWORD)
    account = _account()
    for path in (data, password):
        os.chown(path, account.pw_uid, account.pw_gid)
    options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
    initdb = _popen([bin_ / "initdb", "-D", data, "-U", "tester", f"--pwfile={password}", *options])
    assert initdb.wait(timeout=60) == 0, "initdb failed"
    server = PostgresServer(bin_, data, _free_port(), folder / "authority.pem")
    _certify(server, account)
    return server


def _certify(server: PostgresServer, account: pwd.struct_passwd) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(server.authority)
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(server.data / "server.pem")
    issued.private_key_pem.write_to_path(server.data / "server.key")
    for name in ("server.pem", "server.key"):
        (server.data / name).chmod(0o600)
        os.chown(server.data / name, account.pw_uid, account.pw_gid)


def _account() -> pwd.struct_passwd:
    """Whose process it is: PostgreSQL refuses to run as root."""
    if os.geteuid():
        return pwd.getpwuid(os.geteuid())
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


def _popen(command: list[str | Path]) -> subprocess.Popen:
    account = _account()
    become = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if not os.geteuid() else {}
    return subprocess.Popen(
        command,
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=_die_along,  # noqa: PLW1509 - before any thread
        **become,
    )


def _die_along() -> None:
    """Be sent SIGINT when the parent ends, also by SIGKILL."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGINT)


def _await_answer(server: PostgresServer) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.process.poll() is None:
        with contextlib.suppress(subprocess.CalledProcessError):
            server.psql("SELECT 1")
            return
        time.sleep(0.05)
    raise AssertionError("PostgreSQL did not start")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
