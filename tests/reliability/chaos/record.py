"""What is known of a run when it is over: plain values for the promises to judge, and nothing that acts."""

from typing import Any

import msgspec

from flowmate_async.stores import Checkpoint

from .plan import Plan

Content = tuple[str, dict[str, Any]]
"""``(type, value)`` as upstream writes it, without what upstream left empty and without its own business."""

Key = tuple[str, str]
"""``(username, secret id)``."""

IMPERSONATE = "POST /impersonate"
USERS = "GET /users/"
LIST = "GET /secrets/"
GET = "GET /secrets/{id}"


class Send(msgspec.Struct, kw_only=True):
    """One request as it crossed the client's transport seam.

    Attributes:
        client: which client of the run sent it.
        number: its place among all requests of the run, in the order they began.
        username: whom it impersonates, or whose token it carries.
        refreshing: upstream would refresh or log in for this GET, by the contract and its state then.
        began: the loop's time.
        ended: the loop's time; ``None`` while it is under way.
        ended_before: how many requests had begun by then.
        outcome: the status, or how the exchange broke, or ``cancelled``.
        said: the message of an error's body.
        verdict: a 403 or 404 that the service itself gave: JSON with a message.
        masked: a credential came masked.
        ended_wall: when it ended, in seconds since the Unix epoch.
        pause_seconds: how long this answer asks everybody to wait, as far as the client honours it.
        answer: what a GET of a secret answered, if it is one.
    """

    client: int
    number: int
    endpoint: str
    username: str | None
    secret_id: str | None
    refreshing: bool
    began: float
    ended: float | None = None
    ended_before: int = 0
    outcome: str = ""
    said: str = ""
    verdict: bool = False
    masked: bool = False
    ended_wall: float = 0.0
    pause_seconds: float = 0.0
    answer: Content | None = None

    @property
    def lost(self) -> bool:
        """Whether upstream may have carried it out without the client's having the answer."""
        return self.answer is None


class Grant(msgspec.Struct, frozen=True):
    """An access token that the provider made: its number orders those of one secret."""

    secret_id: str
    number: int
    token: str


class Life(msgspec.Struct):
    """When a secret existed upstream, and what it was when it was last seen there.

    Attributes:
        owners: whose it is, or was.
        left: owners that were deleted.
        born: the number of requests that had begun when it was made; 0 for those that always were.
        died: the number of requests that had begun when it was deleted; ``None`` if it still is.
        last: what it is at the end, or was when it died.
        first_token: its access token before every grant.
    """

    owners: set[str]
    born: int
    died: int | None
    last: Content
    first_token: str | None
    left: set[str] = set()

    def lasts_for(self, username: str) -> bool:
        """Return whether it was this user's all through the run."""
        lasting = self.born == 0 and self.died is None
        return lasting and username in self.owners and username not in self.left


class Handed(msgspec.Struct, frozen=True):
    """A credential that the client handed out.

    Attributes:
        wall: when, in seconds since the Unix epoch.
        expires_at: its own end, in seconds since the Unix epoch.
    """

    key: Key
    content: Content
    wall: float
    expires_at: float | None


class Swept(msgspec.Struct, frozen=True):
    """An outcome of a sweep: the error's kind and text, when it failed."""

    username: str
    contents: dict[str, Content]
    error: str = ""
    message: str = ""


class Part(msgspec.Struct, kw_only=True):
    """One call of ``sync`` or ``sweep``.

    Attributes:
        client: which client made it.
        first_send: the number of its first request.
        calm: the faults had ended.
        ended: ``complete``, ``stopped``, ``cancelled``, or the kind of error it ended with.
        ends: usernames of the events that end a user, in order: stored, not stored, skipped.
        totals: ``(synced, failed, secrets)`` of its report.
    """

    client: int
    first_send: int
    calm: bool
    ended: str = ""
    ends: list[str] = []
    totals: tuple[int, int, int] | None = None


class Record(msgspec.Struct, kw_only=True):
    """One run.

    Attributes:
        given: the usernames that were given.
        unreadable: users that lacked the permission to read credentials at some time.
        masked_at_end: users that lack it at the end.
        deleted: users that were deleted, by the number of requests that had begun then.
        checkpoints: of the newest run in the store.
        complete: the newest run has its completion mark.
        stored: what the store holds.
        damaged: what in the store does not open.
        health: state and reason of each credential that the store does not take for plainly fine.
        unforeseen: errors that reached a caller and are no ``FlowMateError``.
        arrived: secret id -> GETs that the sandbox let through to it.
        lock_waits: secret id -> GETs that met a taken lock at the sandbox, in runs of one client.
        left: tasks and descriptors that were left.
        complaints: what the loop, the warnings and the garbage collector said.
        shown: everything a reader could see: errors with their frames' locals, events, reports, logs, files.
        hidden: every credential and token there was.
        faults: kind -> how often it came about; what the proxy did among it.
    """

    plan: Plan
    given: tuple[str, ...] = ()
    unreadable: set[str] = set()
    masked_at_end: set[str] = set()
    deleted: dict[str, int] = {}
    sends: list[Send] = []
    grants: list[Grant] = []
    lives: dict[str, Life] = {}
    parts: list[Part] = []
    checkpoints: dict[str, Checkpoint] = {}
    complete: bool = False
    stored: dict[Key, Content] = {}
    damaged: tuple[Key, ...] = ()
    health: dict[Key, tuple[str, str]] = {}
    swept: list[Swept] = []
    handed: list[Handed] = []
    errors: list[str] = []
    unforeseen: list[str] = []
    arrived: dict[str, int] = {}
    lock_waits: dict[str, int] = {}
    left: list[str] = []
    complaints: list[str] = []
    shown: str = ""
    hidden: set[str] = set()
    faults: dict[str, int] = {}
    seconds: float = 0.0
    limit_seconds: float = 0.0
