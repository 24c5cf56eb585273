"""The address of a PostgreSQL store: its URL, the driver's options, and readable errors.

It never contains a password: the driver looks for that in ``PGPASSWORD``, in the file named by
``PGPASSFILE``, or in
``~/.pgpass``. Nothing here knows the tables.
"""

import os
import re
from collections.abc import Awaitable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar
from urllib.parse import urlencode, urlunsplit

import msgspec

from flowmate_async.errors import ConfigurationError, StoreError
from flowmate_async.redaction import one_line, safe_text
from flowmate_async.stores.url import StoreUrl
from flowmate_async.system.driver_boundary import DriverBoundary
from flowmate_async.system.extras import needs_extra
from flowmate_async.values.settings import is_loopback

T = TypeVar("T")

_DEFAULT_SCHEMA = "flowmate"
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_OPTIONS = frozenset({"host", "schema", "sslmode", "sslrootcert", "sslcert", "sslkey"})
_EXAMPLE = "It looks like postgresql://user@host:5432/database, with ?schema=name for another schema"
_UNREACHABLE = "Check host, port and TLS; run again once the server is back: what was acknowledged is kept"
_NO_AUTHORITY = (
    "Name the authority behind the server's certificate with ?sslrootcert=FILE or PGSSLROOTCERT; public ones "
    "are in the system's file, as /etc/ssl/certs/ca-certificates.crt"
)
_ADVICE = {
    "08": _UNREACHABLE,
    "28": "Check the role, and its password in PGPASSWORD or the file named by PGPASSFILE",
    "3D": "Make the database first: createdb",
    "42501": "Grant the role what is missing; the documentation of stores lists it",
    "53": "Free what the server has run out of, then run again: what was acknowledged is kept",
    "57": "Run again once the server is back: what was acknowledged is kept",
}


class Address(msgspec.Struct, frozen=True):
    """A database and the schema in it.

    Attributes:
        dsn: the driver's connection string.
        schema: where the tables are.
        where: the address as text for messages.
    """

    dsn: str
    schema: str
    where: str


class Connection(Protocol):
    """The part of the driver's untyped connections that the statements need."""

    async def execute(self, query: str, *args: object) -> str: ...  # noqa: D102
    async def executemany(self, query: str, args: Sequence[Any]) -> None: ...  # noqa: D102
    async def fetch(self, query: str, *args: object) -> list[Any]: ...  # noqa: D102
    async def fetchrow(self, query: str, *args: object) -> Any: ...  # noqa: D102
    async def fetchval(self, query: str, *args: object) -> Any: ...  # noqa: D102
    def transaction(self) -> AbstractAsyncContextManager[object]: ...  # noqa: D102


def parse_address(url: str | StoreUrl) -> Address:
    """Return the address in ``postgresql://user@host:5432/database?schema=name``.

    The driver takes missing parts from ``PGHOST``, ``PGUSER`` and so on. Other machines need TLS with a
    verified certificate, unless ``sslmode`` or ``PGSSLMODE`` says otherwise.

    Raises:
        ConfigurationError: the URL is invalid.
    """
    url = StoreUrl.of(url)
    parts = url.parts(keep_blank=True)
    if parts is None:
        raise ConfigurationError("this is not the URL of a PostgreSQL store", advice=_EXAMPLE)
    unknown = sorted(set(parts.options) - _OPTIONS)
    schema = parts.options.get("schema", _DEFAULT_SCHEMA)
    if unknown or parts.fragment or not _SCHEMA.fullmatch(schema):
        wrong = f"?{one_line(unknown[0], limit=40)}" if unknown else "a schema that is not a plain name"
        raise ConfigurationError(f"the URL of the PostgreSQL store has {wrong}", advice=_EXAMPLE)
    options = {name: value for name, value in parts.options.items() if name != "schema"}
    if not options.get("sslmode") and not os.environ.get("PGSSLMODE"):
        local = _is_local(options.get("host") or parts.host or os.environ.get("PGHOST", ""))
        options["sslmode"] = "prefer" if local else "verify-full"
    dsn = urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(options), ""))
    return Address(dsn, schema, one_line(f"{parts.netloc}{parts.path} (schema {schema})", limit=300))


def _is_local(hosts: str) -> bool:
    """Return whether every host is this machine: its loopback, or a socket in a folder."""
    return all(not host or host.startswith("/") or is_loopback(host) for host in hosts.split(","))


def driver() -> Any:
    """Return the driver, which is an optional extra.

    Raises:
        ConfigurationError: it is not installed.
    """
    with needs_extra("a PostgreSQL store", "asyncpg", "postgres"):
        import asyncpg  # noqa: PLC0415 - an extra
    return asyncpg


async def guarded(work: Awaitable[T], address: Address) -> T:
    """Await the driver. Turn its errors into one-line messages without its stack frames.

    Raises:
        StoreError: the server refused, or could not be reached.
    """
    asyncpg = driver()
    with DriverBoundary():  # around the handlers: why a connection was lost is in an error's context
        try:
            return await work
        except asyncpg.PostgresError as error:
            failure = _refused(error, address)
        except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError) as error:
            # Leaving a transaction whose connection was lost fails again; why it was lost is what matters.
            refusal = error.__context__
            if isinstance(refusal, asyncpg.PostgresError):
                failure = _refused(refusal, address)
            else:
                failure = _unreachable(error, address)
        except UnicodeError:
            failure = StoreError(f"the store {address.where} cannot hold a name that is not valid Unicode")
        except ValueError as error:  # of the environment, as PGPORT=tcp://10.0.0.1:5432 of a service link
            failure = _misconfigured(error, address)
    raise failure


def _misconfigured(error: ValueError, address: Address) -> StoreError:
    return StoreError(
        f"the store {address.where} cannot be used: {safe_text(str(error))}",
        advice="Check the URL, and the variables PGHOST, PGPORT and the like",
    )


def _unreachable(error: Exception, address: Address) -> StoreError:
    reason = one_line(str(error).partition("\n")[0]) or "no answer in time"
    advice = _NO_AUTHORITY if reason.startswith("root certificate file") else _UNREACHABLE
    return StoreError(f"the store {address.where} cannot be used: {reason}", advice=advice)


def _refused(error: Any, address: Address) -> StoreError:
    # Not str(error): its DETAIL may quote whole rows.
    state = str(error.sqlstate or "")
    reason = one_line(str(error.args[0])) if error.args else type(error).__name__
    advice = next((text for prefix, text in _ADVICE.items() if state.startswith(prefix)), "")
    return StoreError(f"the store {address.where} failed: {reason}", advice=advice)
