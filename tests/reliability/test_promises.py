"""Each promise's checker can fail: it accepts an honest run, and notices every record that was doctored."""

import copy
from collections.abc import Callable

import msgspec
import pytest

from flowmate_async.sandbox import Faults

from .chaos import promises
from .chaos.plan import QUARANTINE_SECONDS, Bounds, Plan, World
from .chaos.record import IMPERSONATE, Grant, Record, Send
from .chaos.run import carried_out


def quiet(mode: str = "sync") -> Plan:
    """A run in which nothing goes wrong, with one user who does not exist."""
    world = World(
        users=3,
        named=(*(f"user-{number:06d}@tenant.example" for number in range(3)), "nobody"),
        rate=None,
        burst=1,
        token_life_seconds=3600.0,
        access_life_seconds=3600.0,
        refresh_below_seconds=900.0,
        provider_seconds=0.0,
    )
    bounds = Bounds(rate=600.0, burst=4, concurrency=3, page_size=30, workers=2)
    return Plan(
        seed=14, mode=mode, world=world, bounds=bounds, faults=Faults(), proxy=None,
        endings=(), mischief=(), heals=mode == "sync",
    )  # fmt: skip


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return carried_out(quiet(), tmp_path_factory.mktemp("chaos"))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return carried_out(quiet("sweep"), tmp_path_factory.mktemp("chaos"))


def test_an_honest_run_keeps_every_promise(synced: Record, swept: Record) -> None:
    assert promises.broken(synced) == {}
    assert promises.broken(swept) == {}
    assert len(synced.stored) > 3
    assert len(synced.handed) > 3
    assert any(send.refreshing for send in synced.sends)
    assert any(end.status == "failed" for end in synced.checkpoints.values())


def first_get(record: Record, *, refreshing: bool = False) -> Send:
    return next(send for send in record.sends if send.answer is not None and send.refreshing >= refreshing)


def send_again(record: Record, send: Send, *, after: float, **changed: object) -> Send:
    """One more request like this one, that long after it ended, as the last of all."""
    began = (send.ended or 0.0) + after
    again = msgspec.structs.replace(
        send, number=len(record.sends), began=began, ended=began + 0.01, ended_before=len(record.sends) + 1
    )
    record.sends.append(msgspec.structs.replace(again, **changed))
    return record.sends[-1]


def one_stored(record: Record) -> tuple[str, str]:
    return next(key for key, (kind, _) in record.stored.items() if kind == "SIMPLE")


def one_synced(record: Record) -> str:
    return next(end.username for end in record.checkpoints.values() if end.status == "synced")


def end_differently(record: Record, username: str, **changed: object) -> None:
    record.checkpoints[username] = msgspec.structs.replace(record.checkpoints[username], **changed)


# Each doctors an honest record of a sync, as a client that breaks this promise would leave it.


def lose_a_user(record: Record) -> None:
    del record.checkpoints[one_synced(record)]


def end_a_user_twice(record: Record) -> None:
    record.parts[0].ends.append(record.parts[0].ends[0])


def invent_a_user(record: Record) -> None:
    end_differently(record, one_synced(record))
    record.checkpoints["somebody else"] = msgspec.structs.replace(
        record.checkpoints[one_synced(record)], username="somebody else"
    )


def fail_without_a_name(record: Record) -> None:
    end_differently(record, "nobody", message="it failed")


def leave_the_run_incomplete(record: Record) -> None:
    record.complete = False


def report_another_total(record: Record) -> None:
    synced_users, failed, secrets = record.parts[-1].totals or (0, 0, 0)
    record.parts[-1].totals = (synced_users, failed, secrets + 1)


def lose_a_secret(record: Record) -> None:
    del record.stored[one_stored(record)]


def change_a_stored_value(record: Record) -> None:
    kind, value = record.stored[one_stored(record)]
    record.stored[one_stored(record)] = (kind, value | {"passphrase": "***"})


def store_under_another_user(record: Record) -> None:
    username, secret_id = one_stored(record)
    other = next(name for name, _ in record.stored if name != username)
    record.stored[other, secret_id] = record.stored[username, secret_id]


def damage_a_record(record: Record) -> None:
    record.damaged = (one_stored(record),)


def refresh_once_more_than_was_asked_for(record: Record) -> None:
    secret_id = next(
        secret_id for (_, secret_id), (kind, _) in record.stored.items() if kind.startswith("OA2")
    )
    number = max((grant.number for grant in record.grants if grant.secret_id == secret_id), default=0)
    record.grants += [Grant(secret_id, number + more, f"token-{more}") for more in range(1, 20)]


def vouch_for_what_is_not_stored(record: Record) -> None:
    end = record.checkpoints[one_synced(record)]
    end_differently(record, end.username, secrets=end.secrets + 1)
    synced_users, failed, secrets = record.parts[-1].totals or (0, 0, 0)
    record.parts[-1].totals = (synced_users, failed, secrets + 1)


def hand_out_what_has_ended(record: Record) -> None:
    record.handed[0] = msgspec.structs.replace(record.handed[0], expires_at=record.handed[0].wall - 1)


def hand_out_another_users(record: Record) -> None:
    handed = record.handed[0]
    record.handed[0] = msgspec.structs.replace(handed, key=("nobody", handed.key[1]))


def hand_out_what_never_was(record: Record) -> None:
    handed = record.handed[0]
    record.handed[0] = msgspec.structs.replace(
        handed, content=(handed.content[0], {"accessToken": "invented"})
    )


def answer_for_the_dead(record: Record) -> None:
    record.deleted[first_get(record).username or ""] = 0


def stay_broken_after_the_faults(record: Record) -> None:
    end_differently(
        record, one_synced(record), status="failed", error="x", message=one_synced(record), secrets=0
    )


def fail_a_readable_user_as_masked(record: Record) -> None:
    end_differently(record, one_synced(record), status="failed", error="masked_secret")


def without_workers(record: Record) -> None:
    bounds = msgspec.structs.replace(record.plan.bounds, workers=0)
    record.plan = msgspec.structs.replace(record.plan, bounds=bounds)


def end_as_if_everybody_were_masked(record: Record) -> None:
    without_workers(record)
    record.parts[0].ended = "masked_secret"


def go_on_with_a_masked_user(record: Record) -> None:
    without_workers(record)
    first_get(record).masked = True
    send_again(record, first_get(record), after=0.1)


def take_a_page_for_a_verdict(record: Record) -> None:
    end_differently(record, one_synced(record), status="failed", error="user_not_found")


def take_another_users_verdict(record: Record) -> None:
    end_differently(record, one_synced(record), status="failed", error="permission_denied")
    send_again(record, first_get(record), after=0.1, username="nobody", outcome="403", verdict=True)


def refresh_for_two_owners_at_once(record: Record) -> None:
    get = first_get(record, refreshing=True)
    get.ended_before = len(record.sends) + 1
    send_again(record, get, after=0.001, username="another owner", refreshing=False)


def ask_twice_at_once(record: Record) -> None:
    get = first_get(record)
    get.ended_before = len(record.sends) + 1
    send_again(record, get, after=0.001)


def impersonate_twice_at_once(record: Record) -> None:
    made = next(send for send in record.sends if send.endpoint == IMPERSONATE)
    made.ended_before = len(record.sends) + 1
    send_again(record, made, after=0.001)


def retry_a_refresh_at_once(record: Record) -> None:
    get = first_get(record, refreshing=True)
    lost = send_again(record, get, after=1.0, answer=None, outcome="timeout")
    send_again(record, lost, after=QUARANTINE_SECONDS - 0.01)


def retry_a_failed_refresh_at_once(record: Record) -> None:
    get = first_get(record, refreshing=True)
    lost = send_again(record, get, after=1.0, answer=None, outcome="500", said="Max secret refresh retry")
    send_again(record, lost, after=0.05)


def repeat_behind_the_seam(record: Record) -> None:
    record.arrived[first_get(record).secret_id or ""] += 1


def meet_a_lock(record: Record) -> None:
    record.lock_waits = {"a secret": 1}


def send_a_burst(record: Record) -> None:
    for _ in range(6):
        send_again(record, record.sends[0], after=10.0, endpoint="GET /secrets/")


def crowd(record: Record) -> None:
    for _ in range(4):
        send_again(record, record.sends[0], after=10.0, endpoint="GET /secrets/", ended_before=10**6)


def send_during_a_pause(record: Record) -> None:
    throttled = send_again(record, record.sends[0], after=10.0, outcome="429", pause_seconds=0.05)
    send_again(record, throttled, after=0.03)


def leave_a_task(record: Record) -> None:
    record.left.append("<Task pending>")


def leave_a_warning(record: Record) -> None:
    record.complaints.append("ResourceWarning: unclosed")


def leave_a_request(record: Record) -> None:
    record.sends[-1].ended = None


def raise_something_else(record: Record) -> None:
    record.unforeseen.append("KeyError: 'data'")


def show_a_credential(record: Record) -> None:
    record.shown += f"error: {next(iter(record.hidden))}"


def call_a_healthy_credential_broken(record: Record) -> None:
    get = first_get(record)
    record.health[get.username or "", get.secret_id or ""] = "broken", "refused"


DOCTORED: dict[Callable[[Record], None], promises.Promise] = {
    lose_a_user: promises.nobody_is_lost,
    end_a_user_twice: promises.nobody_is_lost,
    invent_a_user: promises.nobody_is_lost,
    fail_without_a_name: promises.nobody_is_lost,
    leave_the_run_incomplete: promises.nobody_is_lost,
    report_another_total: promises.nobody_is_lost,
    lose_a_secret: promises.contents_are_exact,
    change_a_stored_value: promises.contents_are_exact,
    store_under_another_user: promises.contents_are_exact,
    damage_a_record: promises.contents_are_exact,
    refresh_once_more_than_was_asked_for: promises.contents_are_exact,
    vouch_for_what_is_not_stored: promises.contents_are_exact,
    hand_out_what_has_ended: promises.what_is_handed_out_is_valid,
    hand_out_another_users: promises.what_is_handed_out_is_valid,
    hand_out_what_never_was: promises.what_is_handed_out_is_valid,
    answer_for_the_dead: promises.the_dead_are_not_read,
    stay_broken_after_the_faults: promises.healed_when_the_faults_end,
    call_a_healthy_credential_broken: promises.no_healthy_credential_is_reported_broken,
    fail_a_readable_user_as_masked: promises.no_readable_user_is_starved,
    end_as_if_everybody_were_masked: promises.no_readable_user_is_starved,
    go_on_with_a_masked_user: promises.no_readable_user_is_starved,
    take_a_page_for_a_verdict: promises.only_the_service_is_believed,
    take_another_users_verdict: promises.only_the_service_is_believed,
    refresh_for_two_owners_at_once: promises.one_get_of_a_secret_at_a_time,
    ask_twice_at_once: promises.one_get_of_a_secret_at_a_time,
    impersonate_twice_at_once: promises.one_get_of_a_secret_at_a_time,
    retry_a_refresh_at_once: promises.a_refreshing_get_waits_out_the_lock,
    retry_a_failed_refresh_at_once: promises.a_refreshing_get_waits_out_the_lock,
    repeat_behind_the_seam: promises.nothing_is_repeated_behind_the_seam,
    meet_a_lock: promises.no_get_meets_a_lock,
    send_a_burst: promises.the_rate_is_never_exceeded,
    crowd: promises.concurrency_is_never_exceeded,
    send_during_a_pause: promises.a_pause_holds_everybody,
    leave_a_task: promises.nothing_is_left,
    leave_a_warning: promises.nothing_is_left,
    leave_a_request: promises.nothing_is_left,
    raise_something_else: promises.only_flowmate_errors,
    show_a_credential: promises.nothing_secret_is_shown,
}


@pytest.mark.parametrize("doctor", DOCTORED, ids=lambda doctor: doctor.__name__)
def test_a_broken_promise_is_noticed(synced: Record, doctor: Callable[[Record], None]) -> None:
    record = copy.deepcopy(synced)
    doctor(record)
    assert list(DOCTORED[doctor](record))


def test_owners_of_a_secret_may_read_it_at_once(synced: Record) -> None:
    """Only what upstream would refresh they take turns at."""
    record = copy.deepcopy(synced)
    get = [send for send in record.sends if send.answer is not None and not send.refreshing][-1]
    get.ended_before = len(record.sends) + 1
    send_again(record, get, after=0.001, username="another owner")
    assert not list(promises.one_get_of_a_secret_at_a_time(record))


def test_masked_users_and_verdicts_of_the_service_are_honest(synced: Record) -> None:
    """What makes a record dishonest is what the user, or the service, never did."""
    record = copy.deepcopy(synced)
    record.unreadable.add(one_synced(record))
    fail_a_readable_user_as_masked(record)
    take_a_page_for_a_verdict(record)
    failed = [name for name, end in record.checkpoints.items() if end.error == "user_not_found"]
    for name in failed:
        send_again(record, record.sends[0], after=0.1, username=name, outcome="404", verdict=True)
    assert not list(promises.no_readable_user_is_starved(record))
    assert not list(promises.only_the_service_is_believed(record))


def test_every_promise_has_a_record_that_breaks_it() -> None:
    assert set(DOCTORED.values()) == set(promises.PROMISES)


class TestASweep:
    def test_a_lost_user_is_noticed(self, swept: Record) -> None:
        record = copy.deepcopy(swept)
        record.swept.pop()
        assert list(promises.nobody_is_lost(record))

    def test_a_user_who_comes_twice_is_noticed(self, swept: Record) -> None:
        record = copy.deepcopy(swept)
        record.swept.append(record.swept[0])
        assert list(promises.nobody_is_lost(record))

    def test_a_lost_secret_is_noticed(self, swept: Record) -> None:
        record = copy.deepcopy(swept)
        outcome = next(outcome for outcome in record.swept if outcome.contents)
        outcome.contents.popitem()
        assert list(promises.contents_are_exact(record))
