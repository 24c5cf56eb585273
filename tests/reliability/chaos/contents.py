"""The promises on credentials: what is stored or handed out is genuine, whole and its user's. Pure."""

from collections import defaultdict
from collections.abc import Iterator

from .record import GET, Content, Handed, Record, Send

_JUST_REFRESHED_SECONDS = 0.5


def contents_are_exact(record: Record) -> Iterator[str]:
    """What is stored is what upstream has, or had when it answered; of a synced user, all of it.

    1. A record opens, is its user's, and equals field for field an answer that came for it.
    2. What never changes upstream equals the truth; a token is the first one or one that was granted.
    3. Of a user reported synced there is every secret that lived all through the run.
    4. Where the provider granted later tokens than the stored one, each was granted to another GET of that
       secret, whose answer was lost or came later: none is without its GET.
    """
    for key in record.damaged:
        yield f"{key} does not open"
    facts = _Facts(record)
    for (username, secret_id), content in record.stored.items():
        yield from facts.problems_of(username, secret_id, content)
    synced = {name: end for name, end in record.checkpoints.items() if end.status == "synced"}
    for username, end in synced.items():
        stored = {secret_id for name, secret_id in record.stored if name == username}
        yield from facts.missing(username, stored)
        deletes = record.plan.removed == "delete" and record.deleted
        if end.secrets > len(stored) and not deletes:
            yield f"the checkpoint of {username} vouches for {end.secrets} secrets, {len(stored)} are stored"
        for secret_id in stored:
            yield from facts.unexplained_grants(secret_id, record.stored[username, secret_id])
    for outcome in record.swept:
        for secret_id, content in outcome.contents.items():
            yield from facts.problems_of(outcome.username, secret_id, content)
        if not outcome.error:
            yield from facts.missing(outcome.username, set(outcome.contents))


def what_is_handed_out_is_valid(record: Record) -> Iterator[str]:
    """A credential handed to a worker is its user's, genuine, and has not expired."""
    facts = _Facts(record)
    for handed in record.handed:
        yield from facts.problems_of(*handed.key, handed.content)
        # A client whose clock is wrong cannot know.
        known = handed.expires_at is not None and not record.plan.clock_jumps
        if known and handed.expires_at <= handed.wall and not facts.has_unknown_end(handed):
            yield f"{handed.key} was handed out {handed.wall - handed.expires_at:.3f} s after its end"


class _Facts:
    """What the record proves of each secret."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._answers: defaultdict[str, list[Send]] = defaultdict(list)
        self._gets: defaultdict[str, list[Send]] = defaultdict(list)
        for send in record.sends:
            if send.endpoint == GET and send.secret_id is not None:
                self._gets[send.secret_id].append(send)
                if send.answer is not None:
                    self._answers[send.secret_id].append(send)
        self._granted = {(grant.secret_id, grant.token): grant.number for grant in record.grants}

    def problems_of(self, username: str, secret_id: str, content: Content) -> Iterator[str]:
        """Laws 1 and 2."""
        life = self._record.lives.get(secret_id)
        if life is None or username not in life.owners:
            yield f"{secret_id} is kept as {username}'s and never was"
            return
        if not any(send.answer == content and send.username == username for send in self._answers[secret_id]):
            yield f"{secret_id} is kept as no answer had it"
        if _lasting(content) != _lasting(life.last):
            yield f"{secret_id} differs from the truth"
        token = content[1].get("accessToken")
        if token != life.first_token and (secret_id, token) not in self._granted:
            yield f"{secret_id} has a token that upstream never had"

    def has_unknown_end(self, handed: Handed) -> bool:
        """Return whether its end is the moment of its refresh: the provider gave none (§ Second look)."""
        answers = self._answers[handed.key[1]]
        moments = [send.ended_wall for send in answers if send.answer == handed.content]
        return any(0 <= moment - (handed.expires_at or 0.0) < _JUST_REFRESHED_SECONDS for moment in moments)

    def missing(self, username: str, found: set[str]) -> Iterator[str]:
        """Law 3."""
        for secret_id, life in self._record.lives.items():
            if life.lasts_for(username) and secret_id not in found:
                yield f"{username} is called synced without {secret_id}"

    def unexplained_grants(self, secret_id: str, stored: Content) -> Iterator[str]:
        """Law 4."""
        number = self._granted.get((secret_id, stored[1].get("accessToken")), 0)
        later = [
            grant for grant in self._record.grants if grant.secret_id == secret_id and grant.number > number
        ]
        others = [
            send
            for send in self._gets[secret_id]
            if send.answer is None
            or send.masked  # by an owner that may not read it
            or self._granted.get((secret_id, send.answer[1].get("accessToken")), 0) > number
        ]
        if len(later) > len(others):
            yield f"{secret_id}: {len(later)} later tokens were granted to {len(others)} other GETs"


def _lasting(content: Content) -> Content:
    """What no refresh changes."""
    kind, value = content
    if kind not in ("OA2_AUTHORIZATION_CODE", "SESSION_AUTH"):
        return content
    return kind, {name: part for name, part in value.items() if name not in ("accessToken", "expires")}
