"""``flowmate users``, ``list`` and ``get``: show a tenant, a user or a secret."""

from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from flowmate_async.cli.exits import Exit, print_data, print_json, print_status
from flowmate_async.cli.options import Connection
from flowmate_async.contract.ids import is_username
from flowmate_async.redaction import one_line
from flowmate_async.values.models import SecretSummary, SummaryValue
from flowmate_async.values.plain import plain
from flowmate_async.values.secrets import Secret
from flowmate_async.values.secrets.base import SecretValue

HIDDEN = "(hidden; --reveal shows it)"


async def users(
    *,
    everyone: Annotated[bool, Parameter(negative=(), help="Administrators and disabled users, too.")] = False,
    json: Annotated[bool, Parameter(negative=(), help="One JSON object a line.")] = False,
    connection: Connection = Connection(),
) -> Exit:
    """List the active users of the tenant, one username per line.

    Examples:
        flowmate users > users.txt
    """
    async with connection.client() as fm:
        async for user in fm.users():
            if not everyone and not user.is_active_tenant_user:
                continue
            if json:
                print_json(user)
            elif user.username and is_username(user.username):
                print_data(user.username)
            else:
                print_status(f"Left out an account whose username cannot be sent: {user.id}")
    return Exit.OK


async def list_(
    username: str,
    /,
    *,
    json: Annotated[bool, Parameter(negative=(), help="One JSON object a line.")] = False,
    connection: Connection = Connection(),
) -> Exit:
    """List a user's secrets, without credentials: id, type, expiry, name.

    Examples:
        flowmate list abc123

    Args:
        username: The user.
    """
    async with connection.client() as fm:
        for secret in await fm.list_secrets(username):
            if json:
                print_json(_summary(secret))
            else:
                expires = secret.expires_at.isoformat() if secret.expires_at else "-"
                print_data(one_line(f"{secret.id}  {secret.type:<22}  {expires:<32}  {secret.name or ''}"))
    return Exit.OK


async def get(
    username: str,
    secret_id: str,
    /,
    *,
    reveal: Annotated[bool, Parameter(negative=(), help="Show the credential in clear.")] = False,
    connection: Connection = Connection(),
) -> Exit:
    """Fetch one secret from FlowMate and print it as JSON; its values only with --reveal.

    Examples:
        flowmate get abc123 66761aedcf268b4d68470e27 --reveal

    Args:
        username: The user.
        secret_id: The secret's id.
    """
    async with connection.client() as fm:
        print_data(rendered(await fm.get_secret(username, secret_id), reveal=reveal))
    return Exit.OK


def rendered(secret: Secret, *, reveal: bool) -> str:
    """Return a secret as indented JSON; its credential values are hidden unless revealed."""
    shown = {
        "id": secret.id,
        "type": secret.kind,
        "name": secret.name,
        "owners": plain(secret.owners),
        "created_at": plain(secret.created_at),
        "updated_at": plain(secret.updated_at),
        "expires_at": plain(secret.expires_at),
        "value": _value(secret) if reveal else _hidden(secret),
    }
    return msgspec.json.format(msgspec.json.encode(shown)).decode()


def _hidden(secret: Secret) -> Any:
    value = _value(secret)
    return dict.fromkeys(value, HIDDEN) if isinstance(value, dict) else HIDDEN


def _value(secret: Secret) -> Any:
    """Return the value's fields that upstream has, and those that the contract does not know as they are."""
    value = secret.value
    if not isinstance(value, SecretValue):
        return value
    fields = {name: getattr(value, name) for name in value.__struct_fields__ if name != "extra"}
    return {name: part for name, part in fields.items() if part is not None} | value.extra


def _summary(secret: SecretSummary) -> dict[str, Any]:
    value = secret.value or SummaryValue()
    return {
        "id": secret.id,
        "type": secret.type,
        "name": secret.name,
        "owners": plain(secret.owners),
        "expires_at": plain(secret.expires_at),
        "auth_client_id": value.auth_client_id,
        "scope": value.scope,
        "external_id": value.external_id,
        "ever_failed": secret.ever_failed,
    }
