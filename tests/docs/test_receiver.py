"""The receiver of docs/cookbook/reconnect.md refuses foreign messages, and reports each change once."""

import re
import time
from pathlib import Path

import httpx
import pytest

from flowmate_async.health import Credential, Health, HealthState, Notice, Reason
from flowmate_async.health.webhook import SigningKey, headers, message_of

PAGE = Path(__file__).parents[2] / "docs" / "cookbook" / "reconnect.md"
KEY_TEXT = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = SigningKey.parse(KEY_TEXT)


CODE = re.compile(r'```python title="receiver.py"\n(.*?)```', re.DOTALL)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def receiver(monkeypatch):
    """The page's code as an app, and a client of it."""
    pytest.importorskip("fastapi")
    pytest.importorskip("standardwebhooks")
    monkeypatch.setenv("FLOWMATE_NOTIFY_KEY", KEY_TEXT)
    [code] = CODE.findall(PAGE.read_text(encoding="utf-8"))
    module = {}
    exec(compile(code, "receiver.py", "exec"), module)
    transport = httpx.ASGITransport(app=module["app"])
    async with httpx.AsyncClient(transport=transport, base_url="http://app.example") as client:
        yield client


def message(kind="credential.broken", reason=Reason.REFUSED):
    return message_of(
        Notice(
            id=f"msg_{kind}",
            type=kind,
            at=1_790_000_000.0,
            credential=Credential(username="customer-a", secret_id="a" * 24, type="API_KEY"),
            health=Health(HealthState.BROKEN, reason, 1_789_000_000.0),
        )
    )


async def post(client, one, *, key=KEY, now=None, **changed):
    sent = headers(key, one, now=time.time() if now is None else now) | changed
    return (await client.post("/hooks/flowmate", content=one.body, headers=sent)).status_code


async def test_each_change_is_reported_once(receiver, capsys):
    assert [await post(receiver, message()) for _ in range(3)] == [204] * 3
    assert await post(receiver, message("credential.recovered", Reason.OK)) == 204
    assert capsys.readouterr().out.splitlines() == [
        "customer-a: please reconnect (refused)",
        "customer-a: works again (ok)",
    ]


async def test_what_was_not_signed_for_it_is_refused(receiver, capsys):
    assert await post(receiver, message(), key=SigningKey(b"x" * 32)) == 401
    assert await post(receiver, message(), now=time.time() - 3600) == 401, "a replay"
    assert await post(receiver, message(), **{"webhook-signature": "v1,?"}) == 401
    assert await post(receiver, message(), **{"webhook-id": "msg_other"}) == 401
    assert (await receiver.post("/hooks/flowmate", content=b"{}")).status_code == 401
    assert capsys.readouterr().out == ""
