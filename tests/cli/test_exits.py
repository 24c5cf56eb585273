"""Exit codes: 1 concerns some users, 2 the caller, 3 FlowMate."""

import pytest

from flowmate_async import errors
from flowmate_async.cli.exits import Exit, InterruptedSyncError, exit_code

SOME_FAILED = """
    CredentialExpired CredentialMissing IncompleteListing RefreshFailed SecretNotFound TooManyFailures
    UserNotFound
"""
USAGE = "Configuration InvalidId Store StoreMissing Checkpoint RunInProgress"
UPSTREAM = """
    Authentication CredentialRejected MaskedSecret PermissionDenied Protocol RateLimited UpstreamTimeout
    UpstreamUnavailable
"""


@pytest.mark.parametrize(
    ("code", "names"),
    [(Exit.SOME_FAILED, SOME_FAILED), (Exit.USAGE, USAGE), (Exit.UPSTREAM, UPSTREAM)],
    ids=["some failed", "usage", "upstream"],
)
def test_an_error_tells_who_can_help(code, names):
    found = {name: exit_code(getattr(errors, f"{name}Error")("no")) for name in names.split()}
    assert found == dict.fromkeys(found, code)


def test_an_interrupted_sync_ends_as_after_a_signal():
    assert exit_code(InterruptedSyncError("stopped")) == Exit.INTERRUPTED == 130
