"""The program of --notify-command: what it gets, and that it does not outlive its sync."""

import os
import sys

import anyio
import pytest

from flowmate_async.cli.notify_flags import ProgramNotifier
from flowmate_async.health.webhook import Message

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.name != "posix", reason="processes and signals of POSIX"),
]


@pytest.fixture
def anyio_backend():
    return "asyncio"


def command(folder, script):
    (folder / "program.py").write_text(script)
    return f"{sys.executable} {folder / 'program.py'} {folder / 'told'}"


async def test_it_gets_the_message_and_its_id_and_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("UNTOUCHED", "yes")
    script = (
        "import os, sys; open(sys.argv[1], 'w').write("
        "' '.join([os.environ['WEBHOOK_ID'], os.environ['UNTOUCHED'], sys.stdin.read()]))"
    )
    await ProgramNotifier(command(tmp_path, script)).send(Message("msg_7", b'{"a":1}'))
    assert (tmp_path / "told").read_text() == 'msg_7 yes {"a":1}'


async def test_it_has_ended_when_the_cancelled_sync_ends(tmp_path):
    os.mkfifo(tmp_path / "told")
    script = "import os, sys, time; print(os.getpid(), file=open(sys.argv[1], 'w')); time.sleep(10)"
    async with anyio.create_task_group() as group:
        group.start_soon(ProgramNotifier(command(tmp_path, script)).send, Message("msg_7", b"{}"))
        process = int(await anyio.Path(tmp_path / "told").read_text())
        group.cancel_scope.cancel()
    with pytest.raises(ChildProcessError):  # no such child: it was killed and waited for
        os.waitpid(process, os.WNOHANG)  # noqa: ASYNC222 - returns at once
