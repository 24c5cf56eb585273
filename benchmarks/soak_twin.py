"""A twin for the soak, as a process of its own: many OAuth secrets with short lifetimes.

Prints one line of JSON when it listens: URL, admin token and ``[username, secret id]`` pairs. Then it obeys
lines on stdin: ``revoke`` makes every user token invalid, ``stats`` prints how often each secret was
refreshed; at the end of stdin it stops.
"""

import argparse
import asyncio
import json
import sys
import time
from datetime import UTC, datetime

from flowmate_async.sandbox import Sandbox, SandboxOptions


def token_of(secret_id: str, expires: float, number: int) -> str:
    """An access token that says whose it is and when it ends, so that a job can judge it by itself."""
    return f"{secret_id}~{expires:.3f}~{number}"


def minter(life_seconds: float):  # noqa: ANN201 - the sandbox names its type
    """Mint tokens that carry their secret's id and their end."""

    def mint(label: str, secret_id: str, number: int) -> str:
        if label == "access":
            return token_of(secret_id, time.time() + life_seconds, number)
        return f"{label}-{secret_id}-{number}"

    return mint


def populate(twin: Sandbox, *, users: int, per_user: int, life_seconds: float) -> list[list[str]]:
    """Add users and their secrets, whose first lives end at different times."""
    pairs = []
    total = users * per_user
    for user in range(users):
        username = f"user-{user}"
        twin.world.add_user(username)
        for _ in range(per_user):
            left = life_seconds * (0.5 + 0.5 * len(pairs) / total)
            expires = time.time() + left
            secret = twin.world.add_secret(username, type="OA2_AUTHORIZATION_CODE", value={})
            secret.value = {
                "authClientId": f"client-{user % 5}",
                "accessToken": token_of(secret.id, expires, 0),
                "refreshToken": "first",
                "expires": datetime.fromtimestamp(expires, UTC).isoformat(),
            }
            twin.world.keep(secret)
            pairs.append([username, secret.id])
    return pairs


async def serve(options: argparse.Namespace) -> None:
    """Run the twin until stdin ends."""
    sandbox = SandboxOptions(
        empty_world=True,
        access_life_seconds=options.life,
        refresh_below_seconds=options.life / 3,
        provider_seconds=options.provider_seconds,
        mint_token=minter(options.life),
    )
    async with Sandbox(sandbox) as twin:
        pairs = populate(twin, users=options.users, per_user=options.per_user, life_seconds=options.life)
        hello = {"url": twin.url, "admin_token": twin.admin_token, "pairs": pairs}
        print(json.dumps(hello), flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            if line.strip() == "revoke":
                twin.world.revoke_tokens()
            elif line.strip() == "stats":
                print(json.dumps(twin.stats().refreshes), flush=True)


def main() -> None:
    """Parse the options and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--per-user", type=int, default=5)
    parser.add_argument("--life", type=float, default=15.0)
    parser.add_argument("--provider-seconds", type=float, default=0.02)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
