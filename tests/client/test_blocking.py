"""The blocking client: the same answers, the same errors, and nothing left behind however it ends."""

import asyncio
import contextlib
import inspect
import os
import signal
import threading
import time

import pytest
from anyio.from_thread import start_blocking_portal

from flowmate_async import (
    ConfigurationError,
    CredentialRejectedError,
    FlowMate,
    FlowMateSync,
    SecretNotFoundError,
    UserSynced,
    open_store,
)
from flowmate_async.integrations.verification import AppCheck
from flowmate_async.sandbox import Sandbox, SandboxOptions
from flowmate_async.stores.memory import MemoryStore

USERS = 30


@pytest.fixture
def twin():
    """A sandbox on an event loop of its own, as a remote one would be."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Sandbox(SandboxOptions(users=USERS, seed=7))) as sandbox,
    ):
        yield sandbox


@pytest.fixture
def options(twin):
    return {"admin_token": twin.admin_token, "base_url": twin.url, "rate": None}


@pytest.fixture
def fm(options):
    with FlowMateSync(**options) as client:
        yield client


@pytest.fixture
def usernames(fm):
    return [user.username for user in fm.users() if user.is_active_tenant_user]


@pytest.fixture(autouse=True)
def no_threads_are_left():
    before = threading.active_count()
    yield
    deadline = time.monotonic() + 10
    while threading.active_count() > before:  # what was told to end takes a moment
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.001)


def of_type(fm, username, kind):
    return next(secret.id for secret in fm.list_secrets(username) if secret.type == kind)


def fetched(twin):
    return sum(twin.stats().requests.get("GET /secrets/{id}", {}).values())


def test_listeners_are_told_while_the_block_lasts(fm, usernames):
    told = []
    with fm.listening(told.append):
        fm.list_secrets(usernames[0])
    heard = len(told)
    fm.list_secrets(usernames[1])
    assert len(told) == heard > 0


def test_it_takes_the_same_arguments():
    assert inspect.signature(FlowMateSync).parameters == inspect.signature(FlowMate).parameters


def test_it_has_the_same_methods():
    """But for the one that makes a client one of many on somebody else's event loop."""
    public = {name for name in vars(FlowMate) if not name.startswith("_")} - {"executor"}
    assert {name for name in vars(FlowMateSync) if not name.startswith("_")} == public


def test_one_user_is_read(fm, usernames, twin):
    truth = {(item.username, item.secret_id): item for item in twin.world.truth()}
    username = usernames[0]
    assert len(usernames) == USERS
    assert fm.impersonate(username) == fm.impersonate(username)
    summaries = fm.list_secrets(username)
    assert {(username, summary.id) for summary in summaries} == {key for key in truth if key[0] == username}
    secret = fm.get_secret(username, of_type(fm, username, "SIMPLE"))
    assert secret.value.passphrase == truth[username, secret.id].value["passphrase"]


def test_a_credential_is_cached(fm, usernames, twin):
    username = usernames[0]
    secret_id = of_type(fm, username, "OA2_AUTHORIZATION_CODE")
    first = fm.credential(username, secret_id, min_valid=1)
    assert fm.credential(username, secret_id, min_valid=1) is first
    assert fetched(twin) == 1
    assert fm.stats().cache.hits >= 1


def test_a_lease_brings_the_newer_credential_after_a_rejection(fm, usernames, twin):
    username = usernames[0]
    secret_id = of_type(fm, username, "API_KEY")
    with fm.lease(username, secret_id) as lease:
        twin.world.secret(secret_id).value["key"] = "a newer one"
        assert lease.reject().value.key == "a newer one"
        assert lease.secret.value.key == "a newer one"
        with pytest.raises(CredentialRejectedError):
            lease.reject()


def test_errors_are_the_same(fm, usernames):
    with pytest.raises(SecretNotFoundError, match=usernames[0]):
        fm.get_secret(usernames[0], "0" * 24)


def test_a_working_set_is_kept_fresh(fm, usernames, twin):
    pairs = [(usernames[0], of_type(fm, usernames[0], "SIMPLE"))]
    with fm.keep_fresh(pairs):
        assert fm.credential(*pairs[0])
    assert fetched(twin) == 1


def test_a_sweep_reads_everybody(fm, usernames, twin):
    outcomes = list(fm.sweep(usernames))
    assert {outcome.username for outcome in outcomes} == set(usernames)
    assert all(isinstance(outcome, UserSynced) for outcome in outcomes)
    assert sum(len(outcome.secrets) for outcome in outcomes) == len(list(twin.world.truth()))


def test_a_sweep_goes_no_further_than_it_is_read(options, twin):
    taken = []

    def endless():
        for number in range(10**9):
            taken.append(number)
            yield f"user-{number:06d}@tenant.example"

    with FlowMateSync(**options, concurrency=2) as fm:
        sweep = fm.sweep(endless())
        next(sweep)
        fm.stats()
        for _ in range(50):
            fm.impersonate("user-000000@tenant.example")
        assert len(taken) < 20
        sweep.close()
        after = len(taken)
        fm.impersonate("user-000001@tenant.example")
        assert len(taken) == after


def test_a_sweep_that_is_never_finished_ends_with_the_client(options, usernames):
    with FlowMateSync(**options, concurrency=2) as fm:
        sweep = fm.sweep(usernames)
        next(sweep)
    assert list(sweep) == []


def test_an_error_of_the_usernames_is_the_callers(fm):
    def broken():
        yield "user-000000@tenant.example"
        raise LookupError("the list is torn")

    with pytest.raises(LookupError, match="torn"):
        list(fm.sweep(broken()))


def test_a_store_is_entered_for_the_sync(fm, usernames):
    seen = []
    report = fm.sync(open_store("memory:"), usernames[:5], on_event=seen.append)
    assert (report.synced, report.failed, report.complete) == (5, 0, True)
    assert seen


def test_what_a_sync_would_fetch_is_told_without_fetching(fm, usernames, twin):
    store = open_store("memory:")
    plan = fm.plan_sync(store, usernames[:5])
    assert (plan.users, sum(plan.fetch.values())) == (5, fm.sync(store, usernames[:5]).secrets)


def test_several_threads_share_one_flight(fm, usernames, twin):
    twin.configure(latency_seconds=0.05)
    secret_id = of_type(fm, usernames[0], "SIMPLE")
    threads = [threading.Thread(target=fm.credential, args=(usernames[0], secret_id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched(twin) == 1


def test_outside_its_block_it_refuses(options):
    fm = FlowMateSync(**options)
    with pytest.raises(RuntimeError, match="'with' block"):
        fm.stats()
    with fm:
        pass
    with pytest.raises(RuntimeError, match="'with' block"):
        fm.users()


def test_a_client_that_cannot_be_entered_leaves_no_thread(options):
    class Broken:
        async def __aenter__(self):
            raise OSError("no network")

        async def __aexit__(self, *_):
            raise AssertionError

    with pytest.raises(OSError, match="no network"), FlowMateSync(**options, transport=Broken()):
        raise AssertionError


@pytest.mark.parametrize("wrong", [{"rate": -1}, {"base_url": "http://example.com"}, {"no_such_option": 1}])
def test_a_wrong_argument_does_not_show_the_admin_token(exposed, wrong):
    with pytest.raises((ConfigurationError, TypeError)) as caught:
        FlowMateSync(**{"admin_token": "sesame-open", "base_url": "https://example.com"} | wrong)
    assert "sesame" not in exposed(caught.value)


def test_an_admin_token_that_is_no_token_does_not_show(exposed):
    with pytest.raises(ConfigurationError) as caught:
        FlowMateSync(admin_token="sesame\nopen")
    assert "sesame" not in exposed(caught.value)


def test_an_error_of_a_call_shows_no_credential(fm, usernames, twin, exposed):
    token = fm.impersonate(usernames[0])
    with pytest.raises(SecretNotFoundError) as caught:
        fm.get_secret(usernames[0], "0" * 24)
    assert twin.admin_token not in exposed(caught.value)
    assert token.token not in exposed(caught.value)


class Interrupting:
    """An admin token's source that is never done, and presses Ctrl-C in the main thread when it begins."""

    def __init__(self):
        self.cancelled = threading.Event()

    async def __call__(self):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@pytest.fixture
def interruptible():
    """SIGINT at its default: a shell's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name != "posix", reason="signals a thread")
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("caught_inside", [True, False])
@pytest.mark.parametrize(
    "call",
    [
        lambda fm: fm.impersonate("user"),
        lambda fm: list(fm.users()),
        lambda fm: list(fm.sweep(["user"])),
        lambda fm: fm.sync(open_store("memory:")),
        lambda fm: fm.lease("user", "0" * 24).__enter__(),
    ],
    ids=["impersonate", "users", "sweep", "sync", "lease"],
)
def test_ctrl_c_ends_what_is_under_way_and_does_not_hang(twin, call, caught_inside):
    source = Interrupting()
    inside = pytest.raises(KeyboardInterrupt) if caught_inside else contextlib.nullcontext()
    outside = contextlib.nullcontext() if caught_inside else pytest.raises(KeyboardInterrupt)
    with outside, FlowMateSync(admin_token=source, base_url=twin.url) as fm:
        with inside:
            call(fm)
        assert source.cancelled.wait(5)
    assert source.cancelled.is_set()


def test_a_url_is_not_a_store_yet(options):
    with FlowMateSync(**options) as fm:
        for job in (fm.sync, fm.plan_sync):
            with pytest.raises(ConfigurationError, match="open_store"):
                job("sqlite:///credentials.db")


def test_health_is_listed_and_notices_are_delivered(fm, usernames):
    taken = []

    class Taking:
        async def send(self, message):
            taken.append(message.id)

    store = MemoryStore()
    [user] = fm.health(usernames[:1], store=store)
    assert user.username == usernames[0]
    assert user.credentials
    fm.sync(store, usernames[:1])
    assert fm.notify(store, Taking()).delivered == len(taken)


def test_stored_credentials_are_verified(fm, usernames):
    """The store is entered for the call, and so are the checks."""

    async def verify(secret, app):
        return secret.type == "API_KEY"

    store = MemoryStore()
    fm.sync(store, usernames)
    check = AppCheck(verify, origins=["https://crm.example"], applies_to=lambda _: True, rate=1000)
    found = fm.verify(store, [check], usernames[:2])
    assert found.accepted > 0
    assert found.rejected > 0
