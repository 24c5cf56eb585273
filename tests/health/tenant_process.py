"""A tenant of :mod:`tests.health.world` as a process: it prints its URL, its admin token and its secrets."""

import argparse
import asyncio
import json
import sys

from tests.health.world import Tenant


async def serve() -> None:
    parser = argparse.ArgumentParser()
    for name in ("users", "clients", "keys"):
        parser.add_argument(f"--{name}", type=int, required=True)
    tenant = Tenant(**vars(parser.parse_args()))
    async with tenant.sandbox as sandbox:
        ids = {"tokens": tenant.tokens, "keys": tenant.keys}
        shown = {kind: {name: one.id for name, one in owned.items()} for kind, owned in ids.items()}
        sys.stdout.write(json.dumps({"url": sandbox.url, "admin_token": sandbox.admin_token, **shown}) + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
