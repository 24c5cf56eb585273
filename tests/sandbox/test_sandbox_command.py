"""`flowmate sandbox --faults`: the sandbox as a process."""

import asyncio
import re
import sys
from typing import Any

import aiohttp
import pytest

pytestmark = pytest.mark.anyio

COMMAND = (sys.executable, "-m", "flowmate_async", "sandbox", "--users", "1", "--faults")


async def started(faults: str) -> Any:
    return await asyncio.create_subprocess_exec(
        *COMMAND, faults, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


async def test_faults_of_the_command_line_are_at_work_and_can_be_taken_away() -> None:
    """By text at the start, over HTTP later."""
    process = await started("error status=502 @ GET /secrets/")
    try:
        async with asyncio.timeout(20), aiohttp.ClientSession() as session:
            url, token = [(await process.stdout.readline()).decode().strip().partition("=")[2] for _ in "ab"]
            async with session.get(f"{url}/secrets/") as struck, session.get(f"{url}/users/") as spared:
                assert (struck.status, spared.status) == (502, 401)
            admin = {"Authorization": f"Bearer {token}"}
            async with session.post(f"{url}/_sandbox/faults", headers=admin, json={}) as reply:
                assert await reply.json() == {"seed": 0, "rules": []}
            async with session.get(f"{url}/secrets/") as spared:
                assert spared.status == 401
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0


async def test_faults_that_make_no_sense_end_the_command_with_a_reason() -> None:
    """Exit code 2, before anything listens."""
    async with asyncio.timeout(20):
        process = await started("restet=0.1")
        out, err = await process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert re.search(r"unknown\s+kind\s+of\s+fault\s+'restet'", err.decode())
