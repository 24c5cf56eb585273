"""What is known of secrets: when a GET is a plain read, and whose OAuth client it is."""

from datetime import UTC, datetime

import msgspec
import pytest

from flowmate_async.contract.known_secrets import KnownSecrets, SecretFacts
from flowmate_async.values.models import SecretSummary, SummaryValue
from flowmate_async.values.secrets import decode_secret

NOW = 1_800_000_000.0
WINDOW = 15 * 60 + 120  # upstream's window, and an allowance for two clocks
ID = "6512ab0123456789abcdef01"


class Clock:
    def __init__(self):
        self.elapsed, self.jumped, self.slept = 0.0, 0.0, 0.0

    def wall(self):
        return NOW + self.elapsed + self.jumped + self.slept

    def monotonic(self):
        return self.elapsed


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def known(clock):
    return KnownSecrets(clock=clock)


def iso(seconds):
    """A date so many seconds after the start."""
    return datetime.fromtimestamp(NOW + seconds, UTC).isoformat()


def summary(kind="OA2_AUTHORIZATION_CODE", expires=None, client="c1", secret_id=ID):
    return SecretSummary(id=secret_id, type=kind, value=SummaryValue(auth_client_id=client, expires=expires))


def answer(kind, **value):
    return decode_secret(msgspec.json.encode({"_id": ID, "type": kind, "value": value}))


@pytest.mark.parametrize(("left", "plain"), [(WINDOW, True), (WINDOW - 0.5, False), (-60, False)])
def test_a_get_is_plain_outside_upstreams_window(known, left, plain):
    known.note_listed([summary(expires=iso(left))], served_at=None)
    assert known.is_plain(ID) is plain
    assert known.client_of(ID) == "c1"


def test_it_is_plain_until_the_window_begins(known, clock):
    known.note_listed([summary(expires=iso(WINDOW + 100))], served_at=None)
    clock.elapsed = 100
    assert known.is_plain(ID)
    clock.elapsed = 100.5
    assert not known.is_plain(ID)


@pytest.mark.parametrize("jump", [-3600, 0])
def test_a_wall_clock_that_jumps_back_does_not_prolong_it(known, clock, jump):
    known.note_listed([summary(expires=iso(WINDOW + 100))], served_at=None)
    clock.elapsed, clock.jumped = 101, jump
    assert not known.is_plain(ID)


def test_a_machine_that_slept_does_not_prolong_it(known, clock):
    known.note_listed([summary(expires=iso(WINDOW + 100))], served_at=None)
    clock.slept = 101
    assert not known.is_plain(ID)


def test_upstreams_own_time_counts_when_it_is_later(known):
    known.note_listed([summary(expires=iso(WINDOW + 100))], served_at=NOW + 101)
    assert not known.is_plain(ID)
    known.note_listed([summary(expires=iso(WINDOW + 100))], served_at=NOW - 3600)
    assert known.is_plain(ID)
    known.note_secret(
        answer("OA2_AUTHORIZATION_CODE", accessToken="a", expires=iso(WINDOW)), served_at=NOW + 1
    )
    assert not known.is_plain(ID)


@pytest.mark.parametrize(
    ("secret", "plain", "client"),
    [
        (answer("API_KEY", key="k"), True, None),
        (answer("SIMPLE", passphrase="p"), True, None),
        (answer("OA2_AUTHORIZATION_CODE", accessToken="a", expires=iso(7200), authClientId="c2"), True, "c2"),
        (answer("OA2_AUTHORIZATION_CODE", accessToken="a", expires="soon", authClientId="c2"), False, "c2"),
        (answer("SESSION_AUTH", accessToken="a", expires=None, authClientId="c3"), False, "c3"),
        (answer("A_NEW_TYPE", what="ever"), False, None),
    ],
)
def test_what_an_answer_shows(known, secret, plain, client):
    known.note_secret(secret, served_at=None)
    assert (known.is_plain(ID), known.client_of(ID), known.is_known(ID)) == (plain, client, True)


def test_the_newest_statement_counts(known):
    known.note_listed([summary(expires=iso(-1))], served_at=None)
    known.note_secret(answer("OA2_AUTHORIZATION_CODE", accessToken="a", expires=iso(7200)), served_at=None)
    assert known.is_plain(ID)
    known.note_listed([summary(expires=iso(-1))], served_at=None)
    assert not known.is_plain(ID)


def test_upper_and_lower_case_are_one_secret(known):
    known.note_listed([summary(expires=iso(7200), secret_id=ID.upper())], served_at=None)
    assert known.is_plain(ID)
    known.doubt(ID.upper())
    assert not known.is_plain(ID)
    assert len(known) == 1


def test_doubt_keeps_the_client_and_invents_nothing(known):
    known.doubt(ID)
    assert not known.is_known(ID)
    known.note_listed([summary(expires=iso(7200))], served_at=None)
    known.doubt(ID)
    assert (known.is_plain(ID), known.client_of(ID)) == (False, "c1")


def test_an_unlisted_secret_is_known_to_be_unlisted_only(known):
    known.note_unlisted(ID)
    assert (known.is_known(ID), known.is_plain(ID), known.client_of(ID)) == (True, False, None)
    known.note_listed([summary(expires=iso(7200))], served_at=None)
    known.note_unlisted(ID)
    assert known.is_plain(ID), "what is known stays"


def test_facts_of_another_process_are_as_good(known, clock):
    known.note(ID, SecretFacts("c1", NOW + 100, NOW - 5))
    assert (known.facts(ID), known.is_plain(ID)) == (SecretFacts("c1", NOW + 100, NOW - 5), True)
    clock.elapsed, clock.jumped = 101, -3600
    assert not known.is_plain(ID)


@pytest.mark.parametrize(("learned", "plain"), [(NOW + 50, True), (NOW + 50.5, True), (NOW + 49.5, False)])
def test_older_facts_do_not_replace_newer_ones(known, clock, learned, plain):
    clock.elapsed = 50
    known.note_listed([summary(expires=iso(-1))], served_at=None)
    known.note(ID, SecretFacts("c1", NOW + 7200, learned))
    assert known.is_plain(ID) is plain


def test_the_table_forgets_what_was_seen_longest_ago(clock):
    known = KnownSecrets(clock=clock, capacity=3)
    for number in (1, 2, 3, 1, 4):
        known.note_listed([summary(secret_id=f"{number:024x}")], served_at=None)
    assert [known.is_known(f"{number:024x}") for number in (1, 2, 3, 4)] == [True, False, True, True]
    assert len(known) == 3
