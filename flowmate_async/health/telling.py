"""Convert notices to events."""

from flowmate_async.events import CredentialBroken, CredentialRecovered
from flowmate_async.health.records import Notice


def event_of(notice: Notice) -> CredentialBroken | CredentialRecovered | None:
    """Return the event for a notice; ``None`` for notices without one."""
    username, secret_id = notice.credential.username, notice.credential.secret_id
    if notice.type == "credential.broken":
        return CredentialBroken(username, secret_id, notice.health.reason.value, notice.health.since)
    return CredentialRecovered(username, secret_id) if notice.type == "credential.recovered" else None
