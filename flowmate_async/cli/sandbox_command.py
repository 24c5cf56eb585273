"""``flowmate sandbox``: the local sandbox as a process, and the commands that change a running one."""

import asyncio
import contextlib
import math
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from flowmate_async.cli import sandbox_control
from flowmate_async.cli.exits import Exit, print_data, print_status
from flowmate_async.errors import ConfigurationError
from flowmate_async.redaction import shown_path
from flowmate_async.sandbox import Sandbox, SandboxOptions, faults_from_text, serve_forever
from flowmate_async.sandbox.tokens import new_token
from flowmate_async.system.private_files import (
    create_private,
    read_private_text,
    require_replaceable,
    write_private_atomically,
)

_FAULTS_HELP = (
    "What goes wrong: rules parted by ';', each a kind with its share, fields and, behind '@', routes. "
    "Or the JSON of POST /_sandbox/faults, which changes them later."
)


@Parameter(name="*", group="Tenant")
@dataclass(frozen=True, kw_only=True)
class TenantFlags:
    """What is unusual about the generated tenant."""

    masked_share: Annotated[
        float, Parameter(help="Share of users without permission to read credentials in clear, 0 to 1.")
    ] = 0.0
    shared_secrets: Annotated[int, Parameter(help="Secrets with several owners.")] = 0
    owners_per_shared_secret: Annotated[int, Parameter(help="How many owners each of them has.")] = 10
    no_expires_in_share: Annotated[
        float, Parameter(help="Share of OAuth secrets whose provider sends no expires_in, 0 to 1.")
    ] = 0.0
    looks_masked_share: Annotated[
        float, Parameter(help="Share of OAuth secrets whose ciphertext looks like a mask, 0 to 1.")
    ] = 0.0


sandbox_app: App = App(name="sandbox")
for _command in (
    sandbox_control.add_user,
    sandbox_control.set_user,
    sandbox_control.set_permission,
    sandbox_control.remove_user,
    sandbox_control.revoke_tokens,
    sandbox_control.add_secret,
    sandbox_control.set_secret,
    sandbox_control.rotate_secret,
    sandbox_control.heal,
    sandbox_control.remove_secret,
    sandbox_control.configure,
    sandbox_control.stats,
    sandbox_control.truth,
):
    sandbox_app.command(_command)
sandbox_app.command(sandbox_control.break_, name="break")


@sandbox_app.default
async def sandbox(  # noqa: PLR0913 - a flag each
    *,
    users: Annotated[int, Parameter(help="Active users of the tenant.")] = 100,
    seed: Annotated[int, Parameter(help="The same seed makes the same users, secrets and faults.")] = 0,
    port: Annotated[int, Parameter(help="Port on loopback; 0 for a free one.")] = 0,
    latency: Annotated[float, Parameter(help="Seconds added to each answer.")] = 0.0,
    rate: Annotated[float, Parameter(help="Requests/s above which it answers 429; 0 for no limit.")] = 0.0,
    burst: Annotated[int, Parameter(help="Requests it takes at once under --rate.")] = 20,
    masked: Annotated[bool, Parameter(negative=(), help="Mask credentials: no raw-read permission.")] = False,
    faults: Annotated[str, Parameter(help=_FAULTS_HELP)] = "",
    tenant: TenantFlags = TenantFlags(),
    token_file: Annotated[
        Path | None,
        Parameter(help="Keep the admin token in this private file for the next start."),
    ] = None,
    env_file: Annotated[Path | None, Parameter(help="Also write URL and token to this private file.")] = None,
) -> Exit:
    """Run a local sandbox of FlowMate on loopback until interrupted; prints its URL and admin token.

    The other commands change a running one: set the two variables that it prints.

    Examples:
        flowmate sandbox --users 2000 --seed 7
        flowmate sandbox --masked-share 0.2 --shared-secrets 4
        flowmate sandbox --faults 'reset=0.01; latency seconds=0.05 distribution=heavy_tail'
        flowmate sandbox --faults 'throttle=0.1 retry_after=date @ GET /secrets/ | GET /secrets/{id}'
    """
    if users < 0 or not 0 <= port < 65536 or not 0 <= latency < math.inf:
        raise ConfigurationError(
            "--users, --port and --latency have a natural range, which this is outside of"
        )
    if env_file is not None:
        require_replaceable(env_file, begins=b"FLOWMATE_", what="a file of FLOWMATE_ variables")
    try:
        options = SandboxOptions(
            users=users,
            seed=seed,
            port=port,
            latency_seconds=latency,
            rate=rate or None,
            burst=burst,
            raw_read=not masked,
            faults=faults_from_text(faults, seed=seed),
            admin_token=None if token_file is None else _kept_token(token_file),
            **asdict(tenant),
        )
        options.settings()
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    return await _serve(options, env_file)


def _kept_token(path: Path) -> str:
    """Return the token in a private file, which is made at the first start.

    Raises:
        ConfigurationError: the file cannot be made or read, or others can read it.
    """
    create_private(path, f"{new_token()}\n".encode())
    token = read_private_text(path, what="the token file")
    if not token:
        raise ConfigurationError(f"{shown_path(path)} is empty", advice="Remove it, and it is made again")
    return token


async def _serve(options: SandboxOptions, env_file: Path | None) -> Exit:
    """Run the sandbox until a signal."""

    def announce(twin: Sandbox) -> None:
        lines = [f"FLOWMATE_BASE_URL={twin.url}", f"FLOWMATE_ADMIN_TOKEN={twin.admin_token}"]
        if env_file is not None:
            write_private_atomically(env_file, "".join(f"{line}\n" for line in lines).encode())
        print_data("\n".join(lines))
        print_status(f"A twin of FlowMate with {options.users} users listens on {twin.url}. Ctrl-C ends it.")

    loop = asyncio.get_running_loop()
    serving = loop.create_task(serve_forever(options, announce))
    with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C cancels this task instead
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        return Exit.OK
    except OSError as error:
        raise ConfigurationError(f"cannot listen on port {options.port}: {error.strerror}") from None
    return Exit.OK
