"""Options: how a sandbox is made (``SandboxOptions``) and what may change while it runs (``Settings``).

Only values live here: nothing in this module reads a clock, opens a socket or knows a route.
"""

import ssl
import time
from collections.abc import Callable

import msgspec

from flowmate_async.sandbox.faults import Faults
from flowmate_async.sandbox.outages import Outage
from flowmate_async.sandbox.provider_faults import ProviderFault

EVERY_CLIENT = "*"
"""Stands for every OAuth client, as when the provider behind all of them is down."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Run-time settings: what ``configure()`` and ``POST /_sandbox/settings`` may change.

    Attributes:
        latency_seconds: delay added to each answer.
        rate: requests/s above which it answers 429; ``None`` for no limit.
        burst: requests that it accepts at once under ``rate``.
        raw_read: whether the tenant's users may read credentials in plaintext; otherwise they get masked ones
            (docs/contract/OBSERVED.md § One secret).
        provider_seconds: how long the providers behind the secrets take for a refresh or a login.
        provider_fault: how all of them misbehave; ``None`` for no fault.
        client_faults: how the provider treats single OAuth clients, by ``authClientId``; ``EVERY_CLIENT``
            stands for all others. Every GET of their tokens has to renew, so that the fault shows at once.
        outage: which service behind the gateway is down; ``None`` for none.
        faults: the other faults.
    """

    latency_seconds: float = 0.0
    rate: float | None = None
    burst: int = 1
    raw_read: bool = True
    provider_seconds: float = 0.0
    provider_fault: ProviderFault | None = None
    client_faults: dict[str, ProviderFault] = {}
    outage: Outage | None = None
    faults: Faults = Faults()

    def client_fault(self, client: object) -> ProviderFault | None:
        """Return how the provider treats an OAuth client.

        Args:
            client: its ``authClientId``.
        """
        found = self.client_faults.get(client) if isinstance(client, str) else None
        return found or self.client_faults.get(EVERY_CLIENT)


class SettingsChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Partial update: omitted fields stay unchanged, ``null`` removes a limit or a fault.

    Attributes:
        latency_seconds: as in ``Settings``, and so are the others.
        rate: requests/s, see there.
        burst: see there.
        raw_read: see there.
        provider_seconds: see there.
        provider_fault: see there.
        client_faults: see there; all of them from now on.
        outage: see there.
        faults: see there.
    """

    latency_seconds: float | msgspec.UnsetType = msgspec.UNSET
    rate: float | msgspec.UnsetType | None = msgspec.UNSET
    burst: int | msgspec.UnsetType = msgspec.UNSET
    raw_read: bool | msgspec.UnsetType = msgspec.UNSET
    provider_seconds: float | msgspec.UnsetType = msgspec.UNSET
    provider_fault: ProviderFault | msgspec.UnsetType | None = msgspec.UNSET
    client_faults: dict[str, ProviderFault] | msgspec.UnsetType = msgspec.UNSET
    outage: Outage | msgspec.UnsetType | None = msgspec.UNSET
    faults: Faults | msgspec.UnsetType = msgspec.UNSET

    def applied_to(self, settings: Settings) -> Settings:
        """Return ``settings`` with the fields that this change names.

        Args:
            settings: as they are.

        Raises:
            ValueError: the settings are invalid.
        """
        given = {name: getattr(self, name) for name in self.__struct_fields__}
        named = {name: value for name, value in given.items() if value is not msgspec.UNSET}
        return checked(msgspec.structs.replace(settings, **named))


class SandboxOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options that are fixed before the first request.

    Attributes:
        users: active users of the tenant; administrators and service accounts are additional.
        seed: the same seed makes the same users, secrets and faults.
        disabled_users: additional disabled users.
        port: on loopback; 0 for a free one.
        admin_token: the tenant's admin token; a random one when left out.
        ssl_context: serves over TLS with this context.
        idle_close_seconds: idle connections are closed after this time (docs/contract/OBSERVED.md
            § Connections).
        shutdown_seconds: how long requests in flight may take at shutdown.
        now: the wall clock, in seconds since the Unix epoch.
        token_life_seconds: the sliding life of a user token (docs/contract/OBSERVED.md § Impersonation).
        create_users_on_impersonate: whether an unknown username becomes a user, as FlowMate's guide says.
        masked_share: share of the generated users without the raw-read permission, spread evenly over the
            tenant: the first is masked only if all are. The permission belongs to each user
            (docs/contract/OBSERVED.md § Second look).
        shared_secrets: number of additional secrets with several owners.
        owners_per_shared_secret: how many owners each of them has (fewer in a smaller tenant).
        looks_masked_share: share of the generated OAuth secrets whose ciphertext looks like a mask by chance.
        no_expires_in_share: share of the generated OAuth secrets whose provider sends no ``expires_in``.
        latency_seconds: the initial value of the setting, see ``Settings``; so are the next seven.
        rate: requests/s, see there.
        burst: see there.
        raw_read: see there.
        outage: see there.
        faults: see there.
        provider_seconds: see there.
        provider_fault: see there.
        access_life_seconds: lifetime of an access token from a refresh.
        refresh_below_seconds: a secret with less left is refreshed (docs/contract/OBSERVED.md § One secret).
        lock_seconds: how long an unfinished refresh holds its lock (docs/contract/OBSERVED.md
            § Concurrent GETs of one secret).
        lock_wait_seconds: how long a GET that meets the lock waits before it checks again: minimum, maximum.
        lock_wait_attempts: how often it checks before it fails.
        database_wait_seconds: how long a GET of a secret waits for a database that is down
            (docs/contract/OBSERVED.md § Errors).
    """

    users: int = 10
    seed: int = 0
    disabled_users: int = 2
    empty_world: bool = False
    """Generate only the administrator, for tests that build their own world."""

    port: int = 0
    admin_token: str | None = None
    ssl_context: ssl.SSLContext | None = None
    idle_close_seconds: float = 6.0
    shutdown_seconds: float = 0.05

    now: Callable[[], float] = time.time
    token_life_seconds: float = 3 * 3600.0
    create_users_on_impersonate: bool = False
    masked_share: float = 0.0
    shared_secrets: int = 0
    owners_per_shared_secret: int = 10
    looks_masked_share: float = 0.0
    no_expires_in_share: float = 0.0

    latency_seconds: float = 0.0
    rate: float | None = None
    burst: int = 1
    raw_read: bool = True
    outage: Outage | None = None
    faults: Faults = Faults()
    record_arrivals: bool = False
    """Keep the arrival time of every counted request, 8 bytes each, for ``Sandbox.arrivals``."""

    provider_seconds: float = 0.0
    provider_fault: ProviderFault | None = None
    mint_token: Callable[[str, str, int], str] | None = None
    """Names a rotated token from ("access" or "refresh", secret id, number of the grant)."""

    access_life_seconds: float = 3600.0
    refresh_below_seconds: float = 900.0
    lock_seconds: float = 10.0
    lock_wait_seconds: tuple[float, float] = (1.0, 1.4)
    lock_wait_attempts: int = 5
    database_wait_seconds: float = 30.0

    def __post_init__(self) -> None:
        """Refuse shares outside 0 to 1 and invalid counts."""
        for name in ("masked_share", "looks_masked_share", "no_expires_in_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1")
        if self.shared_secrets < 0 or self.owners_per_shared_secret < 1:
            raise ValueError("shared_secrets cannot be negative, owners_per_shared_secret must be at least 1")

    def settings(self) -> Settings:
        """Return the first run-time settings; raise ``ValueError`` if they are invalid."""
        return checked(
            Settings(
                latency_seconds=self.latency_seconds,
                rate=self.rate,
                burst=self.burst,
                raw_read=self.raw_read,
                provider_seconds=self.provider_seconds,
                provider_fault=self.provider_fault,
                outage=self.outage,
                faults=self.faults,
            )
        )


def checked(settings: Settings) -> Settings:
    """Refuse invalid settings before any request meets them."""
    if settings.rate is not None and settings.rate <= 0:
        message = "rate must be above zero, or null for no limit"
        raise ValueError(message)
    if settings.burst < 1:
        message = "burst must be at least 1"
        raise ValueError(message)
    if settings.latency_seconds < 0 or settings.provider_seconds < 0:
        message = "a latency cannot be negative"
        raise ValueError(message)
    return settings
