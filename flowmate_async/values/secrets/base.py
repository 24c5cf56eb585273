"""What all secrets and their values have."""

from datetime import datetime
from typing import Any, ClassVar

import msgspec

from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import Redacted
from flowmate_async.values.dates import parse_date
from flowmate_async.values.models import Owner


class SecretValue(
    Redacted, frozen=True, kw_only=True, rename="camel", omit_defaults=True, forbid_unknown_fields=True
):
    """Base of values. Unknown fields are forbidden so that the decoder notices and keeps them.

    Attributes:
        extra: fields that upstream sent and the contract does not have.
    """

    extra: dict[str, Any] = msgspec.field(default_factory=dict, name="_extra")


class SecretBase(Redacted, frozen=True, kw_only=True, omit_defaults=True):
    """What all secrets have.

    Attributes:
        type: the tag of the class: upstream's word for a known type, ``"UNKNOWN"`` for any other. Comparing
            it narrows a :data:`Secret` to its class.
        id: the secret's id.
        name: the name its user gave it.
        owners: who owns it: users, or the whole tenant.
        created: when it was created, as upstream sent it; read it as ``created_at``.
        updated: when it last changed, as upstream sent it; read it as ``updated_at``.
        locked: when upstream last began to refresh it, as upstream sent it.
        value: the credential itself; its fields depend on the type.
    """

    type: ClassVar[str]

    id: str = msgspec.field(name="_id")
    name: str | None = None
    owners: tuple[Owner, ...] = ()
    created: Any = msgspec.field(default=None, name="createdAt")
    updated: Any = msgspec.field(default=None, name="updatedAt")
    locked: Any = msgspec.field(default=None, name="lockedAt")

    __shown__: ClassVar[tuple[str, ...]] = ("id", "type", "expires_at")

    @property
    def kind(self) -> str:
        """Upstream's word for the type, whether known or not."""
        return self.type

    @property
    def expires_at(self) -> datetime | None:
        """When the credential expires; ``None`` when it does not, or when that is not known."""
        return None

    @property
    def created_at(self) -> datetime | None:
        """When the secret was made upstream."""
        return parse_date(self.created)

    @property
    def updated_at(self) -> datetime | None:
        """When the secret last changed upstream."""
        return parse_date(self.updated)

    def auth_headers(self, *, default_header: str | None = None) -> dict[str, str]:
        """Return the HTTP headers that present this credential to its app.

        Args:
            default_header: the header for an API key that names none of its own.

        Raises:
            ConfigurationError: this type has no header form, or its header cannot be known or sent.
        """
        return self._headers(default_header)

    def _headers(self, default_header: str | None) -> dict[str, str]:
        raise ConfigurationError(
            f"a secret of type {self.kind} has no header form",
            advice="Build the request from secret.value",
            secret_id=self.id,
        )
