"""Credential health: which users have to reconnect, since when, and why.

From what was observed of a credential to a verdict with a reason, without I/O and without a clock. Observing,
keeping the records and delivering the notices is done elsewhere: ``sync/``, ``stores/``, ``access/``.
"""

from flowmate_async.health.policy import HealthPolicy, Repetition
from flowmate_async.health.records import Credential, HealthRecord, Notice
from flowmate_async.health.states import Health, HealthState, Reason
from flowmate_async.health.webhook import Message

__all__ = [
    "Credential",
    "Health",
    "HealthPolicy",
    "HealthRecord",
    "HealthState",
    "Message",
    "Notice",
    "Reason",
    "Repetition",
]
