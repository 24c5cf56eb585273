"""The flags that commands share, and the client and the store that they configure."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from flowmate_async.cli.log import LogFlags
from flowmate_async.client import FlowMate
from flowmate_async.configuration.connection import find_admin_token
from flowmate_async.engine.coordination import Coordination
from flowmate_async.errors import ConfigurationError
from flowmate_async.stores import Store, StoreKey, load_key, load_other_key, needs_key, open_store
from flowmate_async.values.settings import DEFAULT_BASE_URL, checked_base_url

ConfigFile = Annotated[
    Path | None, Parameter(env_var="FLOWMATE_CONFIG", help="A TOML file with defaults for these flags.")
]


@Parameter(name="*", group="Connection")
@dataclass(frozen=True, kw_only=True)
class Connection:
    """How FlowMate is reached."""

    base_url: Annotated[
        str, Parameter(env_var="FLOWMATE_BASE_URL", help="FlowMate's API: https, or http to this machine.")
    ] = field(default=DEFAULT_BASE_URL, repr=False)
    admin_token_file: Annotated[
        Path | None,
        Parameter(
            env_var="FLOWMATE_ADMIN_TOKEN_FILE",
            help="A private file (0600) with the admin token; or set FLOWMATE_ADMIN_TOKEN.",
        ),
    ] = None
    rate: Annotated[
        float, Parameter(env_var="FLOWMATE_RATE", help="Maximum requests per second; 0 for no limit.")
    ] = 200.0
    burst: Annotated[int, Parameter(env_var="FLOWMATE_BURST", help="Requests that may be sent at once.")] = 20
    concurrency: Annotated[
        int, Parameter(env_var="FLOWMATE_CONCURRENCY", help="Most requests in flight.")
    ] = 64
    ca_file: Annotated[
        Path | None,
        Parameter(env_var="FLOWMATE_CA_FILE", help="Certificate authorities (PEM) instead of the system's."),
    ] = None
    proxy: Annotated[str | None, Parameter(env_var="FLOWMATE_PROXY", help="An http:// proxy.")] = field(
        default=None, repr=False
    )
    trust_env: Annotated[
        bool, Parameter(env_var="FLOWMATE_TRUST_ENV", help="Take the proxy from the environment.")
    ] = False
    transport: Annotated[
        Literal["auto", "wire", "aiohttp"],
        Parameter(
            env_var="FLOWMATE_TRANSPORT",
            help="What carries requests: wire has no proxies, aiohttp has them, auto chooses.",
        ),
    ] = "auto"
    config: ConfigFile = None

    def client(self, *, coordination: Coordination | None = None) -> FlowMate:
        """A client, not yet entered.

        Args:
            coordination: what the client shares with other processes.

        Raises:
            ConfigurationError: a flag is invalid, or the admin token is missing.
        """
        base_url = checked_base_url(self.base_url)
        return FlowMate(
            admin_token=find_admin_token(self.admin_token_file, base_url, os.environ),
            base_url=base_url,
            rate=self.rate or None,
            burst=self.burst,
            concurrency=self.concurrency,
            coordination=coordination,
            transport=self.transport,
            ca_file=self.ca_file,
            proxy=self.proxy,
            trust_env=self.trust_env,
        )


@Parameter(name="*", group="Store")
@dataclass(frozen=True, kw_only=True)
class StoreFlags:
    """Which store, and where its key is."""

    store: Annotated[
        str | None,
        Parameter(env_var="FLOWMATE_STORE", help="The store's URL, as sqlite:///credentials.db."),
    ] = None
    store_key_file: Annotated[
        Path | None,
        Parameter(help="A private file (0600) with the store's key; or set FLOWMATE_STORE_KEY(_FILE)."),
    ] = None

    def open(self, *, create: bool = False, other_key: StoreKey | None = None) -> Store:
        """The store, not yet entered.

        Args:
            create: create it if it is missing.
            other_key: another key that it may have; by default, one from the environment.

        Raises:
            ConfigurationError: no store is given, or its key is not found.
        """
        if not self.store:
            raise ConfigurationError(
                "no store is named", advice="Pass --store sqlite:///credentials.db, or set FLOWMATE_STORE"
            )
        if self.store == "memory:":
            raise ConfigurationError("a memory: store would be gone at once", advice="Name a lasting store")
        if not needs_key(self.store):
            return open_store(self.store, create=create)
        other_key = other_key or load_other_key(os.environ)
        return open_store(self.store, key=self.key(), other_key=other_key, create=create)

    def key(self) -> StoreKey:
        """Return the key of the store, or of the data that processes keep in Redis.

        Raises:
            ConfigurationError: the key is not found.
        """
        return load_key(os.environ, store_url=self.store or "", key_file=self.store_key_file)


@Parameter(name="*", group="Store")
@dataclass(frozen=True, kw_only=True)
class StoreAlone(StoreFlags):
    """The same flags for a command that does not contact FlowMate."""

    config: ConfigFile = None


@Parameter(name="*", group="Store")
@dataclass(frozen=True, kw_only=True)
class StoreChange(StoreAlone, LogFlags):
    """The same flags for a command that changes the store, and may take long."""
