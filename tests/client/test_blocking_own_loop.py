"""A blocking client never waits for the loop from the loop's own thread."""

import pytest
from anyio.from_thread import start_blocking_portal

from flowmate_async import FlowMateSync
from flowmate_async.sandbox import Sandbox, SandboxOptions


@pytest.fixture
def twin():
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Sandbox(SandboxOptions(users=6, seed=7))) as sandbox,
    ):
        yield sandbox


@pytest.mark.timeout(30)
def test_usernames_may_come_from_the_client_itself(twin):
    """The obvious line: sweep all users of the tenant."""
    with FlowMateSync(admin_token=twin.admin_token, base_url=twin.url, rate=None) as fm:
        chosen = (user.username for user in fm.users() if user.is_active_tenant_user)
        assert len(list(fm.sweep(chosen))) == 6


@pytest.mark.timeout(30)
def test_a_call_from_a_listener_is_refused_and_not_waited_for(twin):
    seen = []

    def listen(_event):
        try:
            fm.impersonate("user-000000@tenant.example")
        except RuntimeError as error:
            seen.append(str(error))

    with FlowMateSync(admin_token=twin.admin_token, base_url=twin.url, rate=None, on_event=listen) as fm:
        fm.impersonate("user-000000@tenant.example")
    assert seen
    assert "own event loop" in seen[0]
