"""One worker as seen by its parent: a process, the channel to it, the users it has."""

import asyncio
import socket
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from flowmate_async.workers.channel import Channel
from flowmate_async.workers.messages import Begin, ToParent

_GRACE_SECONDS = 6.0
"""Grace period after closing the channel: slightly more than a client's drain of requests on the wire."""


class WorkerProcess:
    """A running worker.

    Attributes:
        channel: the channel to it.
        has: users handed to it and not reported yet.
    """

    def __init__(self, process: asyncio.subprocess.Process, channel: Channel[ToParent]) -> None:
        self._process = process
        self.channel = channel
        self.has: Counter[str] = Counter()

    @classmethod
    async def start(cls, command: Sequence[str], begin: Begin) -> Self:
        """Start a worker; its standard input is its end of the channel.

        Args:
            command: the program and its arguments, without secrets.
            begin: the first message.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=theirs.fileno(), stdout=asyncio.subprocess.DEVNULL
            )
        channel: Channel[ToParent] = await Channel.over(ours, ToParent)
        channel.send(begin)
        return cls(process, channel)

    async def aclose(self) -> None:
        """Close the channel, which ends the worker; kill it if it does not end."""
        await self.channel.aclose()
        try:
            await asyncio.wait_for(self._process.wait(), _GRACE_SECONDS)
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
