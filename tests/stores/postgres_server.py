"""A real PostgreSQL for the tests: from nothing in two seconds, on a free port, gone with the process."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trustme

from .processes import free_port, popen, running

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
        command = [server.bin / "postgres", "-D", server.data, "-p", str(server.port), *settings]
        # SIGINT is the "fast shutdown": cut clients off, close files.
        with running(command, partial(_answers, server), stop=signal.SIGINT, cwd="/", **_become()):
            yield server
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
    command = [bin_ / "initdb", "-D", data, "-U", "tester", f"--pwfile={password}", *options]
    assert popen(command, cwd="/", **_become()).wait(timeout=60) == 0, "initdb failed"
    server = PostgresServer(bin_, data, free_port(), folder / "authority.pem")
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


def _become() -> dict:
    account = _account()
    if os.geteuid():
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _answers(server: PostgresServer) -> bool:
    with contextlib.suppress(subprocess.CalledProcessError):
        return server.psql("SELECT 1") == "1"
    return False
