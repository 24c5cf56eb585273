"""When a run is not worth going on with: pure rules."""

import pytest

from flowmate_async import (
    ApiKeySecret,
    ApiKeyValue,
    AuthenticationError,
    ConfigurationError,
    InvalidIdError,
    MaskedSecretError,
    OAuth1Secret,
    OAuth1Value,
    PermissionDeniedError,
    ProtocolError,
    SessionSecret,
    SessionValue,
    TooManyFailuresError,
    UnknownSecret,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
    UserFailed,
    UserSynced,
)
from flowmate_async.contract.protocol import GET, IMPERSONATE, LIST
from flowmate_async.distributed.submitter import ReportedError
from flowmate_async.sync.abort import AbortRules
from flowmate_async.sync.results import result_of

CLEAR = ApiKeySecret(id="i", value=ApiKeyValue(key="k"))
NEVER_MASKED = [
    SessionSecret(id="i", value=SessionValue(access_token="a")),
    OAuth1Secret(id="i", value=OAuth1Value(access_token="a")),
    UnknownSecret(id="i", kind="NEW", value={}),
]


def failed(error, *secrets):
    return result_of(UserFailed(username="u", error=error, secrets=secrets))


def synced(*secrets):
    return result_of(UserSynced(username="u", secrets=secrets, requests=1, seconds=0.0))


def rules(max_consecutive_failures=10, max_failures=None):
    return AbortRules(max_consecutive_failures=max_consecutive_failures, max_failures=max_failures)


@pytest.mark.parametrize(
    "error",
    [AuthenticationError("m", endpoint=IMPERSONATE), ConfigurationError("the token file is a folder")],
)
def test_a_useless_admin_token_ends_it_at_the_first_user(error):
    assert rules().note(failed(error)) is error


class TestMayNotImpersonate:
    ERROR = PermissionDeniedError("m", endpoint=IMPERSONATE)

    def test_three_users_and_nobody_else_end_it(self):
        watch = rules()
        assert [watch.note(failed(self.ERROR)) for _ in range(3)] == [None, None, self.ERROR]

    def test_after_anybody_was_read_it_is_that_users_own_trouble(self):
        watch = rules()
        assert watch.note(synced(CLEAR)) is None
        assert [watch.note(failed(self.ERROR)) for _ in range(9)] == [None] * 9
        assert watch.at_end() is None

    @pytest.mark.parametrize(
        "end",
        [synced(), failed(MaskedSecretError("m", endpoint=GET)), failed(ProtocolError("m", endpoint=LIST))],
        ids=["nothing to fetch", "masked", "a bad listing"],
    )
    def test_whoever_was_impersonated_shows_that_it_is_allowed(self, end):
        watch = rules()
        watch.note(end)
        assert [watch.note(failed(self.ERROR)) for _ in range(9)] == [None] * 9
        assert watch.at_end() is None

    @pytest.mark.parametrize("error", [InvalidIdError("m"), ProtocolError("m", endpoint=IMPERSONATE)])
    def test_a_user_that_failed_before_that_shows_nothing(self, error):
        watch = rules()
        ends = [failed(error), *[failed(self.ERROR)] * 3]
        assert [watch.note(end) for end in ends] == [None, None, None, self.ERROR]
        assert watch.at_end() is self.ERROR

    def test_so_it_is_when_an_earlier_part_of_the_run_read_somebody(self):
        watch = AbortRules(max_consecutive_failures=9, max_failures=None, synced_before=True)
        assert [watch.note(failed(self.ERROR)) for _ in range(9)] == [None] * 9
        assert watch.at_end() is None


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError("m", endpoint=GET),
        PermissionDeniedError("m", endpoint=GET),
        ProtocolError("m", endpoint=GET),
        UpstreamTimeoutError("its provider hangs", endpoint=GET),
        InvalidIdError("m"),
    ],
)
def test_one_users_own_trouble_never_ends_it(error):
    watch = rules(max_consecutive_failures=2)
    assert [watch.note(failed(error)) for _ in range(50)] == [None] * 50
    assert watch.at_end() is None


@pytest.mark.parametrize("endpoint", [IMPERSONATE, LIST])
def test_a_base_url_that_is_not_flowmates_ends_it(endpoint):
    """Strange answers for user after user are not the users' fault."""
    watch, error = rules(max_consecutive_failures=3), ProtocolError("m", endpoint=endpoint)
    assert [watch.note(failed(error)) for _ in range(3)] == [None, None, error]


class TestMasked:
    ERRORS = (MaskedSecretError("m"), ReportedError("masked_secret", "as a checkpoint tells it"))

    @pytest.mark.parametrize("error", ERRORS, ids=["own", "reported"])
    @pytest.mark.parametrize("secret", [None, *NEVER_MASKED], ids=lambda secret: secret and secret.type)
    def test_masked_users_never_end_it_early_and_count_at_the_end(self, error, secret):
        """Types that upstream never masks prove nothing, also when a user has only those."""
        watch, others = rules(), () if secret is None else (secret,)
        ends = [synced(*others), *(failed(error, *others) for _ in range(99))]
        assert [watch.note(end) for end in ends] == [None] * 100
        assert watch.found_only_masks

    @pytest.mark.parametrize("error", ERRORS, ids=["own", "reported"])
    def test_one_value_in_clear_shows_that_somebody_is_readable(self, error):
        watch = rules()
        watch.note(failed(error))
        watch.note(synced(CLEAR))
        assert not watch.found_only_masks

    def test_without_a_mask_there_is_nothing_to_say(self):
        watch = rules()
        watch.note(failed(ProtocolError("m", endpoint=GET)))
        watch.note(synced())
        assert not watch.found_only_masks


class TestUnusableUpstream:
    @pytest.mark.parametrize(
        "error", [UpstreamUnavailableError("m"), UpstreamTimeoutError("m", endpoint=IMPERSONATE)]
    )
    def test_so_many_users_in_a_row_end_it(self, error):
        watch = rules(max_consecutive_failures=4)
        assert [watch.note(failed(error)) for _ in range(4)] == [None, None, None, error]

    @pytest.mark.parametrize("between", [synced(), failed(ProtocolError("m"))])
    def test_but_only_in_a_row(self, between):
        watch = rules(max_consecutive_failures=3)
        for _ in range(9):
            assert watch.note(failed(UpstreamUnavailableError("m"))) is None
            assert watch.note(failed(UpstreamUnavailableError("m"))) is None
            assert watch.note(between) is None


@pytest.mark.parametrize("allowed", [0, 1, 5])
def test_one_more_failure_than_allowed_ends_it(allowed):
    watch = rules(max_failures=allowed)
    for _ in range(allowed):
        assert watch.note(failed(ProtocolError("m"))) is None
        assert watch.note(synced(CLEAR)) is None
    assert isinstance(watch.note(failed(ProtocolError("m"))), TooManyFailuresError)
