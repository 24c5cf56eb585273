"""``flowmate sandbox add-user`` and the like: change a running sandbox over its admin API.

Credentials are never flags here either: they come from a file or from standard input, or are generated.
"""

import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from cyclopts import Parameter

from flowmate_async.cli.exits import Exit, print_data, print_json
from flowmate_async.cli.running_sandbox import RunningSandbox
from flowmate_async.errors import ConfigurationError
from flowmate_async.sandbox import EVERY_CLIENT, RAW_READ, Outage, ProviderFault, faults_from_text

_NONE = "none"
_PROVIDER_FAULTS = ", ".join((*ProviderFault, _NONE))

_ProviderFaultFlag = Annotated[
    str | None, Parameter(help=f"How its provider misbehaves: {_PROVIDER_FAULTS}.")
]
_Client = Annotated[
    str | None, Parameter(help="All credentials of this OAuth client (authClientId) instead.")
]
_EveryClient = Annotated[bool, Parameter(negative=(), help="All OAuth clients instead.")]
_ValueFile = Annotated[
    Path | None,
    Parameter(
        allow_leading_hyphen=True,
        help="A file with fields of the credential as a JSON object; - for standard input.",
    ),
]


async def add_user(
    username: str,
    /,
    *,
    raw_read: Annotated[bool, Parameter(help="Whether the user reads credentials in clear.")] = True,
    disabled: Annotated[bool, Parameter(negative=(), help="The user cannot be impersonated.")] = False,
    sandbox: RunningSandbox = RunningSandbox(),
) -> Exit:
    """Add a user of the tenant, without secrets.

    Examples:
        flowmate sandbox add-user customer-a
        flowmate sandbox add-user customer-b --no-raw-read

    Args:
        username: The user.
    """
    permissions = (RAW_READ,) if raw_read else ()
    body = {"username": username, "status": _status(enabled=not disabled), "permissions": permissions}
    print_data(msgspec.json.decode(await sandbox.send("POST", "users", body))["_id"])
    return Exit.OK


async def set_user(
    username: str,
    /,
    *,
    enabled: Annotated[bool, Parameter(negative="--disabled", help="Whether it can be impersonated.")],
    sandbox: RunningSandbox = RunningSandbox(),
) -> Exit:
    """Enable or disable a user.

    Examples:
        flowmate sandbox set-user customer-a --disabled

    Args:
        username: The user.
    """
    await sandbox.send("PATCH", _user(username), {"status": _status(enabled=enabled)})
    return Exit.OK


async def set_permission(
    username: str,
    /,
    *,
    raw_read: Annotated[bool, Parameter(help="Whether the user reads credentials in clear.")],
    sandbox: RunningSandbox = RunningSandbox(),
) -> Exit:
    """Give a user the permission to read credentials in clear, or take it away.

    Examples:
        flowmate sandbox set-permission customer-a --no-raw-read

    Args:
        username: The user.
    """
    await sandbox.send("PATCH", _user(username), {"raw_read": raw_read})
    return Exit.OK


async def remove_user(username: str, /, *, sandbox: RunningSandbox = RunningSandbox()) -> Exit:
    """Remove a user, with tokens and the secrets that no other user owns.

    Examples:
        flowmate sandbox remove-user customer-a

    Args:
        username: The user.
    """
    await sandbox.send("DELETE", _user(username))
    return Exit.OK


async def revoke_tokens(
    username: str | None = None, /, *, sandbox: RunningSandbox = RunningSandbox()
) -> Exit:
    """Revoke the tokens of one user, or of everybody; prints how many.

    Examples:
        flowmate sandbox revoke-tokens customer-a

    Args:
        username: The user; everybody when left out.
    """
    route = "revoke-tokens" if username is None else f"{_user(username)}/revoke-tokens"
    print_data(str(msgspec.json.decode(await sandbox.send("POST", route))["revoked"]))
    return Exit.OK


async def add_secret(
    type: str,  # noqa: A002 - the contract's word
    /,
    *owners: str,
    tenant_owned: Annotated[
        bool, Parameter(negative=(), help="The tenant owns it: no user lists it.")
    ] = False,
    name: Annotated[str | None, Parameter(help="Its name.")] = None,
    id: Annotated[str | None, Parameter(help="Its id, 24 hexadecimal digits.")] = None,  # noqa: A002
    value_file: _ValueFile = None,
    provider_fault: _ProviderFaultFlag = None,
    sandbox: RunningSandbox = RunningSandbox(),
) -> Exit:
    """Add a secret of one or more users; prints its id.

    Examples:
        flowmate sandbox add-secret API_KEY customer-a
        flowmate sandbox add-secret SESSION_AUTH customer-a customer-b --name shared

    Args:
        type: SIMPLE, API_KEY, OA2_AUTHORIZATION_CODE, SESSION_AUTH, MIXED or any other.
        owners: The users who own it.
    """
    body: dict[str, Any] = {"type": type, "owners": owners, "tenant_owned": tenant_owned}
    body |= _given(name=name, secret_id=id)
    if value_file is not None:
        body["value"] = _json_object(value_file)
    made = await sandbox.send("POST", "secrets", body | _provider_fault(provider_fault, key="fault"))
    print_data(msgspec.json.decode(made)["id"])
    return Exit.OK


async def set_secret(  # noqa: PLR0913 - a flag each
    secret_id: str,
    /,
    *,
    name: Annotated[str | None, Parameter(help="Another name.")] = None,
    owner: Annotated[tuple[str, ...], Parameter(help="All its owners from now on; once for each.")] = (),
    tenant_owned: Annotated[bool, Parameter(negative=(), help="The tenant owns it from now on.")] = False,
    value_file: _ValueFile = None,
    without: Annotated[tuple[str, ...], Parameter(help="A field of the credential to remove.")] = (),
    provider_fault: _ProviderFaultFlag = None,
    looks_masked: Annotated[bool | None, Parameter(help="Whether its ciphertext looks like a mask.")] = None,
    sandbox: RunningSandbox = RunningSandbox(),
) -> Exit:
    """Change a secret's name, owners, credential or provider.

    Examples:
        flowmate sandbox set-secret 66761aedcf268b4d68470e27 --name renamed
        flowmate sandbox set-secret 66761aedcf268b4d68470e27 --provider-fault no_expires_in

    Args:
        secret_id: The secret's id.
    """
    body: dict[str, Any] = _provider_fault(provider_fault, key="fault") | _given(
        name=name, owners=owner or None, tenant_owned=tenant_owned or None, looks_masked=looks_masked
    )
    if value_file is not None:
        body["value"] = _json_object(value_file)
    if without:
        body["without"] = without
    _require_any(body)
    await sandbox.send("PATCH", _secret(secret_id), body)
    return Exit.OK


async def rotate_secret(secret_id: str, /, *, sandbox: RunningSandbox = RunningSandbox()) -> Exit:
    """Give a secret a new credential, as when its user changes the password or connects the app again.

    Examples:
        flowmate sandbox rotate-secret 66761aedcf268b4d68470e27

    Args:
        secret_id: The secret's id.
    """
    await sandbox.send("POST", f"{_secret(secret_id)}/rotate")
    return Exit.OK


async def break_(
    *secret_ids: str,
    client: _Client = None,
    every_client: _EveryClient = False,
    sandbox: RunningSandbox = RunningSandbox(),
) -> Exit:
    """Break credentials, to rehearse what follows: the provider refuses to renew them, and they are due now.

    A broken secret stands for a user who revoked access, a broken OAuth client for a provider that refuses
    all its users, and every broken client for an outage of all providers.

    Examples:
        flowmate sandbox break 66761aedcf268b4d68470e27
        flowmate sandbox break --client 63f2c1d8e4b07a001f3c9a55

    Args:
        secret_ids: The secrets' ids.
    """
    return await _broken_or_healed("break", secret_ids, client, sandbox, every=every_client)


async def heal(
    *secret_ids: str,
    client: _Client = None,
    every_client: _EveryClient = False,
    sandbox: RunningSandbox = RunningSandbox(),
) -> Exit:
    """Undo flowmate sandbox break: the user connects the app again, or the provider recovers.

    Examples:
        flowmate sandbox heal 66761aedcf268b4d68470e27
        flowmate sandbox heal --every-client

    Args:
        secret_ids: The secrets' ids.
    """
    return await _broken_or_healed("heal", secret_ids, client, sandbox, every=every_client)


async def remove_secret(secret_id: str, /, *, sandbox: RunningSandbox = RunningSandbox()) -> Exit:
    """Remove a secret.

    Examples:
        flowmate sandbox remove-secret 66761aedcf268b4d68470e27

    Args:
        secret_id: The secret's id.
    """
    await sandbox.send("DELETE", _secret(secret_id))
    return Exit.OK


async def configure(  # noqa: PLR0913 - a flag each
    *,
    latency: Annotated[float | None, Parameter(help="Seconds added to each answer.")] = None,
    rate: Annotated[
        float | None, Parameter(help="Requests/s above which it answers 429; 0 for no limit.")
    ] = None,
    burst: Annotated[int | None, Parameter(help="Requests it takes at once under --rate.")] = None,
    raw_read: Annotated[bool | None, Parameter(help="Whether anybody reads credentials in clear.")] = None,
    provider_seconds: Annotated[float | None, Parameter(help="How long a refresh or login takes.")] = None,
    provider_fault: Annotated[
        str | None, Parameter(help=f"How all providers misbehave: {_PROVIDER_FAULTS}.")
    ] = None,
    outage: Annotated[
        str | None, Parameter(help=f"Which service is down: {', '.join((*Outage, _NONE))}.")
    ] = None,
    faults: Annotated[
        str | None, Parameter(help="What goes wrong, as for flowmate sandbox; '' for nothing.")
    ] = None,
    sandbox: RunningSandbox = RunningSandbox(),
) -> Exit:
    """Change what a running sandbox does; prints all its settings as JSON.

    Examples:
        flowmate sandbox configure --outage database
        flowmate sandbox configure --outage none --faults 'ingress_page=0.05 page=firewall'
    """
    body = _given(latency_seconds=latency, burst=burst, raw_read=raw_read, provider_seconds=provider_seconds)
    body |= _provider_fault(provider_fault, key="provider_fault")
    if rate is not None:
        body["rate"] = rate or None
    if outage is not None:
        body["outage"] = None if outage == _NONE else outage
    if faults is not None:
        body["faults"] = _faults(faults)
    _require_any(body)
    print_json(msgspec.json.decode(await sandbox.send("POST", "settings", body)))
    return Exit.OK


async def stats(
    *,
    reset: Annotated[bool, Parameter(negative=(), help="Start counting at zero afterwards.")] = False,
    sandbox: RunningSandbox = RunningSandbox(),
) -> Exit:
    """Print what reached a running sandbox, as JSON.

    Examples:
        flowmate sandbox stats --reset
    """
    print_json(msgspec.json.decode(await sandbox.send("GET", "stats")))
    if reset:
        await sandbox.send("POST", "reset-stats")
    return Exit.OK


async def truth(
    *,
    reveal: Annotated[bool, Parameter(negative=(), help="Show the credentials in clear.")] = False,
    sandbox: RunningSandbox = RunningSandbox(),
) -> Exit:
    """Print every secret as it is upstream, one JSON object per line; its value only with --reveal.

    Examples:
        flowmate sandbox truth --reveal > expected.jsonl
    """
    for line in (await sandbox.send("GET", "truth")).splitlines():
        shown = msgspec.json.decode(line)
        if not reveal:
            del shown["value"]
        print_json(shown)
    return Exit.OK


async def _broken_or_healed(
    verb: str, secret_ids: tuple[str, ...], client: str | None, sandbox: RunningSandbox, *, every: bool
) -> Exit:
    if sum((bool(secret_ids), client is not None, every)) != 1:
        raise ConfigurationError(
            "it is not said what", advice="Pass ids of secrets, or --client ID, or --every-client"
        )
    routes = [_secret(one) for one in secret_ids]
    if not secret_ids:
        routes = [f"clients/{quote(EVERY_CLIENT if client is None else client, safe='')}"]
    for route in routes:
        await sandbox.send("POST", f"{route}/{verb}")
    return Exit.OK


def _user(username: str) -> str:
    return f"users/{quote(username, safe='')}"


def _secret(secret_id: str) -> str:
    return f"secrets/{quote(secret_id, safe='')}"


def _given(**flags: object) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def _require_any(body: dict[str, Any]) -> None:
    if not body:
        raise ConfigurationError("nothing is to be changed", advice="Pass at least one flag")


def _status(*, enabled: bool) -> str:
    return "ACTIVE" if enabled else "DISABLED"


def _provider_fault(text: str | None, *, key: str) -> dict[str, Any]:
    if text is None:
        return {}
    return {key: None if text == _NONE else text}


def _faults(text: str) -> object:
    try:
        return faults_from_text(text)
    except ValueError as problem:
        raise ConfigurationError(str(problem)) from None


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return msgspec.json.decode(content, type=dict[str, Any])
    except OSError as problem:
        reason = problem.strerror
    except msgspec.DecodeError:
        reason = "it is not a JSON object"
    raise ConfigurationError(f"the credential in {path} cannot be read: {reason}")
