"""What is passed to the blocking client reaches the client."""

import asyncio
import json
import time
from datetime import UTC, datetime

import pytest

from flowmate_async import CredentialExpiredError, FlowMateSync
from flowmate_async.health import Credential, Health, HealthState, Notice, Reason
from flowmate_async.stores.memory import MemoryStore
from flowmate_async.testing.memory_transport import MemoryTransport, json_response

HOUR = 3600.0
SECRET = "a" * 24


def upstream(method, path, headers, body):
    """Answer with a token that ends in an hour."""
    if method == "POST":
        return json_response(b'{"token":"t"}')
    expires = datetime.fromtimestamp(time.time() + HOUR, UTC).isoformat()
    value = {"accessToken": "a-token", "refreshToken": "r", "expires": expires}
    item = {"_id": SECRET, "type": "OA2_AUTHORIZATION_CODE", "value": value}
    return json_response(json.dumps({"data": item}).encode())


@pytest.fixture
def fm():
    transport = MemoryTransport(upstream)
    with FlowMateSync(admin_token="a", base_url="http://localhost", transport=transport, rate=None) as client:
        yield client


def test_a_credential_is_valid_for_as_long_as_is_asked(fm):
    assert fm.credential("ann", SECRET, min_valid=HOUR / 2)
    with pytest.raises(CredentialExpiredError):
        fm.credential("ann", SECRET, min_valid=2 * HOUR)


def test_a_leased_credential_is_valid_for_as_long_as_is_asked(fm):
    with fm.lease("ann", SECRET, min_valid=HOUR / 2) as lease:
        assert lease.secret
    with pytest.raises(CredentialExpiredError), fm.lease("ann", SECRET, min_valid=2 * HOUR):
        pass


@pytest.mark.parametrize(("digest", "messages"), [(False, 2), (True, 1)])
def test_changes_are_told_in_one_message_if_that_is_asked(fm, digest, messages):
    class Taking:
        sent = 0

        async def send(self, message):
            self.sent += 1

    health = Health(HealthState.BROKEN, Reason.REJECTED, 1_789_000_000.0)
    notices = [
        Notice(
            id=f"msg_{user}",
            type="credential.broken",
            at=1_790_000_000.0,
            credential=Credential(username=user, secret_id=SECRET, type="API_KEY"),
            health=health,
        )
        for user in ("ann", "bob")
    ]
    store, taking = MemoryStore(), Taking()
    asyncio.run(store.put_health([], notices))
    assert fm.notify(store, taking, digest=digest).delivered == 2
    assert taking.sent == messages
