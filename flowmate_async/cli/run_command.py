"""``flowmate run``: a command with a user's credential in its environment, or on a file descriptor.

Nothing is ever added to the command's arguments, which every process on the machine can read.
"""

import os
from collections.abc import Mapping
from typing import Annotated

import msgspec
from cyclopts import Parameter

from flowmate_async.cli.child_process import Environment, Payload, offer, replace_process
from flowmate_async.cli.loop import run_async
from flowmate_async.cli.options import Connection
from flowmate_async.errors import ConfigurationError
from flowmate_async.values.secrets import Secret, UnknownSecret

_FIELDS = {
    "username": "CREDENTIAL_USERNAME",
    "passphrase": "CREDENTIAL_PASSPHRASE",
    "key": "CREDENTIAL_KEY",
    "header_name": "CREDENTIAL_HEADER_NAME",
    "access_token": "CREDENTIAL_ACCESS_TOKEN",
    "access_token_secret": "CREDENTIAL_ACCESS_TOKEN_SECRET",
    "payload": "CREDENTIAL_PAYLOAD",
}
"""Value fields and the variables that carry them. Fixed, so that upstream cannot choose a variable name."""

NAMES = frozenset({*_FIELDS.values(), "CREDENTIAL_TYPE", "CREDENTIAL_EXPIRES_AT", "CREDENTIAL_VALUE"})
"""Every variable that may be set; none of them is inherited."""

_OWN = "FLOWMATE_"


def run(
    username: str,
    secret_id: str,
    /,
    *command: str,
    min_valid: Annotated[float, Parameter(help="Seconds for which the credential must be valid.")] = 60.0,
    fd: Annotated[
        int | None, Parameter(help="Give the whole secret as JSON on this file descriptor instead.")
    ] = None,
    connection: Connection = Connection(),
) -> int:
    """Run a command with a credential in its environment, and nothing of FlowMate's.

    The command replaces this process, so signals and its exit code are its own; 127 when there is no such
    program, 126 when it cannot be executed. FLOWMATE_* variables are not passed on. It finds, as far as the
    secret has them: CREDENTIAL_TYPE, CREDENTIAL_EXPIRES_AT (empty when not known), CREDENTIAL_USERNAME,
    CREDENTIAL_PASSPHRASE, CREDENTIAL_KEY, CREDENTIAL_HEADER_NAME, CREDENTIAL_ACCESS_TOKEN,
    CREDENTIAL_ACCESS_TOKEN_SECRET, CREDENTIAL_PAYLOAD; for an unknown type, CREDENTIAL_VALUE as JSON.

    Examples:
        flowmate run abc123 66761aedcf268b4d68470e27 -- ./report.sh --month 7

    Args:
        username: The user.
        secret_id: The secret's id.
        command: The command after --, every argument untouched.
    """
    if not command:
        raise ConfigurationError("no command is given", advice="flowmate run USER SECRET -- COMMAND …")
    if fd is not None and fd < 3:
        raise ConfigurationError("--fd must be 3 or above: 0, 1 and 2 are the command's input and output")

    async def fetched() -> Secret:
        async with connection.client() as fm:
            return await fm.credential(username, secret_id, min_valid=min_valid)

    secret = run_async(fetched)
    environment = Environment(_without_ours(os.environ))
    if fd is None:
        environment = Environment(environment.variables | credential_variables(secret).variables)
    else:
        offer(Payload(msgspec.json.encode(secret)), fd=fd)
    return replace_process(command, environment)


def _without_ours(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if not name.startswith(_OWN) and name not in NAMES}


def credential_variables(secret: Secret) -> Environment:
    """Return a secret as environment variables.

    Raises:
        ConfigurationError: an environment cannot carry a value; the message does not contain it.
    """
    expires_at = secret.expires_at
    variables = {
        "CREDENTIAL_TYPE": secret.kind,
        "CREDENTIAL_EXPIRES_AT": "" if expires_at is None else expires_at.isoformat(),
        **_of_value(secret),
    }
    environment = Environment(variables)
    del variables
    for name, value in environment.variables.items():
        if not _can_be_carried(value):
            del value
            raise ConfigurationError(
                f"{name} would hold a character that no environment can carry",
                advice="Pass --fd 3 and read the secret as JSON from file descriptor 3",
                secret_id=secret.id,
            )
    return environment


def _of_value(secret: Secret) -> dict[str, str]:
    if isinstance(secret, UnknownSecret):
        return {"CREDENTIAL_VALUE": msgspec.json.encode(secret.value).decode()}
    parts = {name: getattr(secret.value, field, None) for field, name in _FIELDS.items()}
    return {name: part for name, part in parts.items() if part is not None}


def _can_be_carried(value: str) -> bool:
    try:
        return b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False
