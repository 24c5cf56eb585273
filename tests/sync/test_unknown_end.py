"""A delta sync of a token whose provider sends no lifetime: due once per run, and never "changed"."""

import msgspec

from flowmate_async import decode_secret
from flowmate_async.sync.plan import DeltaPolicy, Plan
from flowmate_async.values.models import SecretSummary, SummaryValue

MADE = "2026-11-30T12:00:00.000Z"


def test_the_next_listing_shows_it_as_due_and_not_as_changed():
    """The listing shows the moment of the refresh as ``expires`` (OBSERVED.md § Second look)."""
    body = {
        "_id": "s", "type": "OA2_AUTHORIZATION_CODE", "updatedAt": MADE,
        "value": {"accessToken": "t", "expires": MADE},
    }  # fmt: skip
    secret = decode_secret(msgspec.json.encode(body))
    assert secret.expires_at is None
    summary = SecretSummary(id="s", type=body["type"], value=SummaryValue(expires=MADE))
    first = Plan(DeltaPolicy(), "")
    assert first.wants(summary, now=1_800_000_000.0)
    first.fetched(summary, secret, now=1_800_000_000.0)
    second = Plan(DeltaPolicy(), first.seen())
    assert second.wants(summary, now=1_800_003_600.0)
    assert dict(second.reasons) == {"due": 1}
