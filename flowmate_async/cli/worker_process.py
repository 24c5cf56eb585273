"""A worker of ``flowmate sync --workers``: started by its parent and served over standard input.

The parent's flags, sent over the channel, and the same environment and files configure it.
"""

import contextlib
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import msgspec

from flowmate_async.cli.log import is_json, logging_to_stderr
from flowmate_async.cli.loop import run_async
from flowmate_async.cli.options import Connection, StoreFlags
from flowmate_async.errors import FlowMateError
from flowmate_async.sync.plan import DeltaPolicy
from flowmate_async.values.error_record import ErrorRecord
from flowmate_async.workers.channel import Channel
from flowmate_async.workers.messages import Begin, Failed, ToWorker
from flowmate_async.workers.worker import Worker

# -P: nothing is imported from the working directory.
_COMMAND = (sys.executable, "-P", "-c", f"from {__name__} import main; main()")


_JSON = "--json-log"


def command() -> tuple[str, ...]:
    """Return a worker's program, with the log format of this process."""
    return (*_COMMAND, _JSON) if is_json() else _COMMAND


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The parent's flags that its workers need; flags never hold secrets.

    Attributes:
        connection: how FlowMate is reached.
        store: where the credentials go.
        delta: what is fetched again.
    """

    connection: Connection
    store: StoreFlags
    delta: DeltaPolicy

    def encoded(self) -> bytes:
        """Encode as bytes."""
        return msgspec.json.encode(self, enc_hook=str)  # paths

    @classmethod
    def decoded(cls, data: bytes) -> "WorkerSettings":
        """Decode from bytes."""
        return msgspec.json.decode(data, type=cls, dec_hook=_path)


def _path(kind: type, value: Any) -> Any:
    return kind(value) if issubclass(kind, Path) else value


def main() -> None:
    """Serve the parent at the other end of standard input, until it ends."""
    # Ctrl-C and a service manager's SIGTERM reach the whole process group; the parent decides what to do.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with logging_to_stderr(as_json=_JSON in sys.argv), contextlib.suppress(BrokenPipeError):
        run_async(_serve)


async def _serve() -> None:
    channel: Channel[ToWorker] = await Channel.over(socket.socket(fileno=0), ToWorker)
    begin = await channel.receive()
    if not isinstance(begin, Begin):
        return
    try:
        await _work(channel, begin)
    except FlowMateError as error:
        channel.send(Failed(ErrorRecord.of(error)))
        await channel.drained()
    finally:
        await channel.aclose()


async def _work(channel: Channel[ToWorker], begin: Begin) -> None:
    settings = WorkerSettings.decoded(begin.settings)
    limited = settings.connection.rate > 0
    worker = Worker(channel, limited=limited, concurrency=begin.concurrency)
    client = settings.connection.client(coordination=worker)
    async with settings.store.open() as store, client as fm:
        await store.bind(fm.base_url)
        await worker.serve(fm.executor(store, delta=settings.delta), begin.run, stats=fm.stats)
