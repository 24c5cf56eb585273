"""Answers without a usable credential: no retry storm, and no loss of a cached value that is still valid."""

import msgspec
import pytest

from flowmate_async import CredentialMissingError, MaskedSecretError, RefreshFailedError

pytestmark = pytest.mark.anyio
SID = "66761aedcf268b4d68470e27"


def answer_with(world, kit, **changes):
    """Let upstream answer every GET with one secret."""
    secret = {"_id": SID, "type": kit.SESSION, "value": {"accessToken": "t", "expires": None}} | changes

    def sick(_method, path, _username):
        return (
            kit.json_response(msgspec.json.encode({"data": secret})) if path.startswith("/secrets/") else None
        )

    world.upstream.sick = sick


async def kinds_of(world, calls, min_valid=60.0):
    outcomes = [await world.together(1, "ann", SID, min_valid) for _ in range(calls)]
    return {type(outcome) for [outcome] in outcomes}


class TestNoCredential:
    @pytest.mark.parametrize(
        ("kind", "value", "error"),
        [
            ("SESSION_AUTH", {"expires": None}, RefreshFailedError),
            ("SESSION_AUTH", {"accessToken": ""}, RefreshFailedError),
            ("OA2_AUTHORIZATION_CODE", {"accessToken": None}, RefreshFailedError),
            ("API_KEY", {"key": ""}, CredentialMissingError),
            ("SIMPLE", {"username": "u"}, CredentialMissingError),
            ("MIXED", {"payload": None}, CredentialMissingError),
        ],
    )
    async def test_twenty_calls_reach_upstream_once(self, world, kit, kind, value, error):
        """OBSERVED.md § Second look: every GET of such a session logs in, which can lock the account."""
        answer_with(world, kit, type=kind, value=value)
        assert await kinds_of(world, 20) == {error}
        assert world.upstream.gets[SID] == 1

    async def test_after_the_cool_down_upstream_is_asked_once_more(self, world, kit):
        answer_with(world, kit, value={})
        await kinds_of(world, 1)
        await world.clock.sleep(29.0)
        await kinds_of(world, 5)
        assert world.upstream.gets[SID] == 1
        await world.clock.sleep(17.0)
        answer_with(world, kit)
        assert await world.token("ann", SID) == "t"
        assert world.upstream.gets[SID] == 2


@pytest.mark.parametrize("refusal", ["masked", "html", "empty", "refresh failed", "503", "timeout"])
async def test_a_refused_newer_answer_never_evicts_a_valid_value(world, kit, refusal):
    """Unless upstream says that the access is gone, the value is served until it ends."""
    world.upstream.add("ann", SID, kit.OAUTH, life=3600.0)
    token = await world.token("ann", SID)
    await world.clock.sleep(3600.0 - 600.0)  # within the window in which it is refreshed early
    if refusal == "empty":
        answer_with(world, kit, type=kit.OAUTH, value={"accessToken": ""})
    else:
        world.upstream.faults[SID] = refusal
    for _ in range(20):
        assert await world.token("ann", SID) == token
        await world.clock.sleep(20.0)
    assert world.upstream.gets[SID] > 1


@pytest.mark.parametrize(
    ("fault", "kind"), [("forbidden", "permission_denied"), ("not found", "secret_not_found")]
)
async def test_access_that_is_gone_evicts_the_value(world, kit, fault, kind):
    world.upstream.add("ann", SID, kit.OAUTH, life=3600.0)
    await world.token("ann", SID)
    await world.clock.sleep(3600.0 - 600.0)
    world.upstream.faults[SID] = fault
    await world.token("ann", SID)  # the last time, while the refusal is on its way
    await kit.settle()
    [outcome] = await world.together(1, "ann", SID)
    assert outcome.kind == kind


async def test_a_masked_first_answer_is_remembered_briefly(world, kit):
    world.upstream.add("ann", SID, kit.OAUTH)
    world.upstream.faults[SID] = "masked"
    assert await kinds_of(world, 20) == {MaskedSecretError}
    assert world.upstream.gets[SID] == 1
    del world.upstream.faults[SID]
    await world.clock.sleep(11.0)
    assert await world.token("ann", SID)
