"""The promises: what must hold of every run. Pure functions of its record, which name what does not.

Each is a law of DESIGN's list of promises, as it can be judged from outside: from the requests that crossed
the transport seam, from the sandbox's own state, from the store. None asks the client.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator

from flowmate_async.sandbox import burst_needed

from .contents import contents_are_exact, what_is_handed_out_is_valid
from .plan import QUARANTINE_SECONDS
from .record import GET, IMPERSONATE, LIST, Part, Record, Send

Promise = Callable[[Record], Iterable[str]]

_FLOAT_SECONDS = 1e-6
_DATE_SECONDS = 0.005
"""A date is compared with the wall clock, which the client and the tap read one after the other."""

_ALONE = 3
"""How many of a user's secrets the client fetches one after another until one shows that it is readable."""

_AMBIGUOUS = frozenset({"timeout", "interrupted", "stale", "malformed", "cancelled", "502", "504"})
"""Endings after which upstream may be refreshing still, when the GET was one that refreshes."""


def nobody_is_lost(record: Record) -> Iterator[str]:
    """Each user given is exactly once synced or failed; a failure names its user and says why.

    Users who were deleted may be missing from "all users", and from nothing else.
    """
    if record.plan.mode == "sweep":
        yield from _each_once(
            "the sweep's outcomes", [end.username for end in record.swept], set(record.given)
        )
        failures = [(end.username, end.error, end.message) for end in record.swept if end.error]
    else:
        told_masked = record.parts[-1].ended == "masked_secret" and not _readable(record)
        if not told_masked and (not record.complete or record.parts[-1].ended != "complete"):
            yield f"the last part ended with {record.parts[-1].ended}, and the run is incomplete"
        expected = set(record.given)
        optional = set() if record.plan.world.named else set(record.deleted)
        yield from _exactly("the checkpoints", set(record.checkpoints), expected, optional)
        for part in record.parts:
            yield from _part_adds_up(record, part)
        failures = [
            (end.username, end.error, end.message)
            for end in record.checkpoints.values()
            if end.status == "failed"
        ]
    for username, kind, message in failures:
        if not kind or username not in message:
            yield f"the failure of {username} does not name its user: {kind}: {message}"


def _each_once(
    what: str, seen: list[str], expected: set[str], optional: frozenset[str] = frozenset()
) -> Iterator[str]:
    for username, times in Counter(seen).items():
        if times > 1:
            yield f"{what} have {username} {times} times"
    yield from _exactly(what, set(seen), expected, set(optional))


def _exactly(what: str, seen: set[str], expected: set[str], optional: set[str]) -> Iterator[str]:
    for username in sorted(expected - optional - seen):
        yield f"{what} lack {username}"
    for username in sorted(seen - expected):
        yield f"{what} have {username}, whom nobody gave"


def _part_adds_up(record: Record, part: Part) -> Iterator[str]:
    if part.ended != "complete":
        for username, times in Counter(part.ends).items():
            if times > 1:
                yield f"a part ended {username} {times} times"
        return
    optional = frozenset() if record.plan.world.named else frozenset(record.deleted)
    yield from _each_once("a complete part's events", part.ends, set(record.given), optional)
    if part is record.parts[-1] and part.totals is not None:
        ends = record.checkpoints.values()
        synced = sum(end.status == "synced" for end in ends)
        counted = (synced, len(ends) - synced, sum(end.secrets for end in ends))
        if counted != part.totals:
            yield f"the report says {part.totals}, the checkpoints {counted} (synced, failed, secrets)"


def the_dead_are_not_read(record: Record) -> Iterator[str]:
    """A deleted user fails, or was synced of answers that came before the deletion."""
    for username, begun in record.deleted.items():
        answered = [
            send.number
            for send in record.sends
            if send.username == username and send.answer is not None and send.number >= begun
        ]
        if answered:
            yield f"{username} was deleted before request {begun}, and request {answered[0]} was answered"


def healed_when_the_faults_end(record: Record) -> Iterator[str]:
    """Once the faults have ended, one run puts everything right.

    A user may still fail that was deleted, that never was, that may not read credentials, or that has a
    secret which upstream answers with 500 or without a token for good: its provider gives no other answer.
    """
    part = record.parts[-1]
    if not (record.plan.heals and part.calm):
        return
    refused = {
        send.username
        for send in record.sends[part.first_send :]
        if send.endpoint == GET and (send.outcome == "500" or _has_no_token(send))
    }
    users = {owner for life in record.lives.values() for owner in life.owners}
    refused |= record.masked_at_end
    for username, end in record.checkpoints.items():
        excused = username in record.deleted or username in refused or username not in users
        if end.status != "synced" and not excused:
            yield f"{username} still fails although nothing is wrong: {end.message}"


def no_healthy_credential_is_reported_broken(record: Record) -> Iterator[str]:
    """Once nothing is wrong any more, no credential that was just read is called broken or unreadable.

    Whatever the faults made of it before. A token that has ended and cannot be renewed is not healthy, nor is
    what a user without the permission reads: of several lines some come in plain text.
    """
    part = record.parts[-1]
    if not (record.plan.heals and part.calm):
        return
    gets = [send for send in record.sends[part.first_send :] if send.endpoint == GET]
    last = {(send.username, send.secret_id): send for send in gets}
    for key, (state, reason) in record.health.items():
        send = last.get(key)
        if send is None or send.answer is None or _has_no_token(send) or key[0] in record.masked_at_end:
            continue
        if state in ("broken", "unreadable", "provider_outage") and reason != "expired":
            yield f"secret {key[1]} of {key[0]} was read at last, and is {state}: {reason}"


def _has_no_token(send: Send) -> bool:
    return (
        send.answer is not None and send.answer[0] == "SESSION_AUTH" and "accessToken" not in send.answer[1]
    )


def no_readable_user_is_starved(record: Record) -> Iterator[str]:
    """Masks are the business of the users that may not read credentials.

    1. A user that had the permission all through never fails as masked.
    2. No part ends because everything came masked when it has read somebody in plain text.
    3. A user whose first answer is masked gets no further GET in that part. (The permission may be taken away
       later, when several secrets are being fetched; they are as well when three in a row say nothing.)
    """
    if not record.plan.masks_everybody:
        ends = [(end.username, end.error) for end in (*record.checkpoints.values(), *record.swept)]
        for username, error in ends:
            if error == "masked_secret" and username not in record.unreadable:
                yield f"{username} may read credentials and failed as masked"
    if record.plan.bounds.workers == 0:
        ends = [*(part.first_send for part in record.parts[1:]), len(record.sends)]
        for part, end in zip(record.parts, ends, strict=True):
            sends = record.sends[part.first_send : end]
            yield from _left_alone(sends)
            if part.ended == "masked_secret" and (read := _read_in_clear(record, sends)):
                yield f"a part ended as if nobody were readable, and it has read {read[0]}"


def _readable(record: Record) -> list[str]:
    """The given users that may always read credentials, and have one of which that shows."""
    shows = {
        owner
        for life in record.lives.values()
        for owner in life.owners
        if life.last[0] == "SIMPLE" and life.lasts_for(owner)
    }
    return sorted(shows.intersection(record.given) - record.unreadable - record.deleted.keys())


def _read_in_clear(record: Record, sends: list[Send]) -> list[str]:
    clear = {
        send.username for send in sends if send.answer and send.answer[0] == "SIMPLE" and not send.masked
    }
    return [username for username in _readable(record) if username in clear]


def _left_alone(sends: list[Send]) -> Iterator[str]:
    first: dict[str, Send] = {}
    tried: defaultdict[str, set[str | None]] = defaultdict(set)
    for send in sends:
        if send.endpoint != GET or send.username is None:
            continue
        before = first.get(send.username)
        if before is not None and before.masked and len(tried[send.username]) <= _ALONE:
            yield f"request {send.number} went on with {send.username}, masked in request {before.number}"
        if before is None:
            tried[send.username].add(send.secret_id)
        if send.answer is not None:
            first.setdefault(send.username, send)


_VERDICTS = {"user_not_found": "404", "secret_not_found": "404", "permission_denied": "403"}


def only_the_service_is_believed(record: Record) -> Iterator[str]:
    """A user is called gone or forbidden only if the service said so; a page of an ingress says nothing."""
    ends = [(end.username, end.error) for end in (*record.checkpoints.values(), *record.swept)]
    said = {(send.username, send.outcome) for send in record.sends if send.verdict}
    for username, error in ends:
        if error in _VERDICTS and (username, _VERDICTS[error]) not in said:
            yield f"{username} failed as {error}, and no answer of the service says so"


def one_get_of_a_secret_at_a_time(record: Record) -> Iterator[str]:
    """One client never has two GETs of one secret under way, nor two impersonations of one user.

    Owners of a secret may read it at once; what upstream would refresh they take turns at. A listing that
    came while one refreshes may show that the refresh is over: then the others read already.
    """
    last: defaultdict[tuple[int, str, str], list[Send]] = defaultdict(list)
    for send in record.sends:
        if send.endpoint not in (GET, IMPERSONATE):
            continue
        key = (send.client, send.endpoint, send.secret_id or send.username or "")
        under_way = [one for one in last[key] if one.ended is None or one.ended_before > send.number]
        for before in under_way:
            is_read_by_two = before.username != send.username and not send.refreshing
            if not is_read_by_two or (before.refreshing and not _listed_meanwhile(record, before, send)):
                yield f"request {send.number} of {key} began while request {before.number} was under way"
        last[key] = [*under_way, send]


def _listed_meanwhile(record: Record, before: Send, after: Send) -> bool:
    """Return whether an owner of their secret was listed, wholly between two GETs of one client."""
    owners = record.lives[after.secret_id or ""].owners
    between = record.sends[before.number + 1 : after.number]
    return any(
        one.endpoint == LIST and one.outcome == "200" and one.client == after.client
        for one in between
        if one.username in owners and one.ended is not None and one.ended_before <= after.number
    )


def a_refreshing_get_waits_out_the_lock(record: Record) -> Iterator[str]:
    """After a refreshing GET that ended without an answer, its secret is left alone past upstream's lock."""
    until: dict[tuple[int, str], tuple[float, Send]] = {}
    for send in record.sends:
        if send.endpoint != GET or send.secret_id is None:
            continue
        moment, before = until.get((send.client, send.secret_id), (float("-inf"), send))
        has_ended = before.ended is not None and before.ended_before <= send.number
        if has_ended and send.began < moment - _FLOAT_SECONDS:
            yield (
                f"request {send.number} of {send.secret_id} came {moment - send.began:.3f} s too early after "
                f"request {before.number} ended with {before.outcome}"
            )
        if send.ended is not None and send.refreshing and _may_hold_the_lock(send):
            until[send.client, send.secret_id] = (send.ended + QUARANTINE_SECONDS, send)


def _may_hold_the_lock(send: Send) -> bool:
    # With an error body from its provider upstream releases the lock and says nothing (§ Refresh failures).
    return send.outcome in _AMBIGUOUS or (send.outcome == "500" and bool(send.said))


def nothing_is_repeated_behind_the_seam(record: Record) -> Iterator[str]:
    """No GET arrives at the sandbox that the client did not send: a transport never repeats one by itself."""
    sent = Counter(send.secret_id for send in record.sends if send.endpoint == GET)
    for secret_id, arrived in record.arrived.items():
        if arrived > sent[secret_id]:
            yield f"{arrived} GETs of {secret_id} arrived, {sent[secret_id]} were sent"


def no_get_meets_a_lock(record: Record) -> Iterator[str]:
    """One client's GETs never meet the sandbox's lock, where what it sent was processed as it arrived."""
    if not record.plan.delays_before_processing:
        for secret_id, times in record.lock_waits.items():
            yield f"{times} GETs of {secret_id} met the lock of another one's refresh"


def the_rate_is_never_exceeded(record: Record) -> Iterator[str]:
    """Over every window of w seconds a client sends at most ``burst + rate * w`` requests; no allowance."""
    bounds = record.plan.bounds
    if bounds.rate is None:
        return
    for client in sorted({send.client for send in record.sends}):
        moments = [send.began for send in record.sends if send.client == client]
        needed = burst_needed(moments, bounds.rate)
        if needed > bounds.burst + _FLOAT_SECONDS * bounds.rate:
            yield f"client {client} needed a burst of {needed:.3f}, not of {bounds.burst}, at {bounds.rate}/s"


def concurrency_is_never_exceeded(record: Record) -> Iterator[str]:
    """A client never has more than ``concurrency`` requests under way."""
    most = record.plan.bounds.concurrency
    under_way: defaultdict[int, list[Send]] = defaultdict(list)
    for send in record.sends:
        mine = under_way[send.client] = [
            other
            for other in under_way[send.client]
            if other.ended is None or other.ended_before > send.number
        ]
        mine.append(send)
        if len(mine) > most:
            yield f"request {send.number} was the {len(mine)}th under way, of {most}"


def a_pause_holds_everybody(record: Record) -> Iterator[str]:
    """After a 429 no request is sent before the requested time has passed.

    A wall clock that jumps ahead ends a pause: the machine may have slept.
    """
    if record.plan.clock_jumps:
        return
    pauses: defaultdict[int, list[Send]] = defaultdict(list)
    for send in record.sends:
        if send.outcome == "429" and send.pause_seconds:
            pauses[send.client].append(send)
    for send in record.sends:
        for pause in pauses[send.client]:
            assert pause.ended is not None
            early = pause.ended + pause.pause_seconds - send.began
            if send.number >= pause.ended_before and early > _DATE_SECONDS:
                yield f"request {send.number} began {early:.3f} s within the pause of {pause.number}"


def nothing_is_left(record: Record) -> Iterator[str]:
    """No task, no descriptor, no request under way; no warning; every part in its time."""
    yield from record.left
    yield from record.complaints
    yield from (f"request {send.number} never ended" for send in record.sends if send.ended is None)


def only_flowmate_errors(record: Record) -> Iterator[str]:
    """Whatever goes wrong, callers get a ``FlowMateError``."""
    yield from record.unforeseen


def nothing_secret_is_shown(record: Record) -> Iterator[str]:
    """No credential and no token in errors, locals of their frames, events, reports, logs or files."""
    for text in record.hidden:
        if text in record.shown:
            place = record.shown.index(text)
            around = record.shown[max(0, place - 80) : place].replace("\n", " ")
            yield f"a credential of {len(text)} characters is shown after '{around}'"


PROMISES: tuple[Promise, ...] = (
    nobody_is_lost,
    contents_are_exact,
    what_is_handed_out_is_valid,
    the_dead_are_not_read,
    healed_when_the_faults_end,
    no_healthy_credential_is_reported_broken,
    no_readable_user_is_starved,
    only_the_service_is_believed,
    one_get_of_a_secret_at_a_time,
    a_refreshing_get_waits_out_the_lock,
    nothing_is_repeated_behind_the_seam,
    no_get_meets_a_lock,
    the_rate_is_never_exceeded,
    concurrency_is_never_exceeded,
    a_pause_holds_everybody,
    nothing_is_left,
    only_flowmate_errors,
    nothing_secret_is_shown,
)


def broken(record: Record) -> dict[str, list[str]]:
    """The promises that this run broke, and how."""
    found = {promise.__name__: list(promise(record)) for promise in PROMISES}
    return {name: problems for name, problems in found.items() if problems}
