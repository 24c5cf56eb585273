"""No credential of anybody's reaches a log, an error, a traceback with its locals, a report or the disk."""

import logging
import sys
import traceback
from collections.abc import Iterator

import msgspec
import pytest
from anyio.from_thread import start_blocking_portal

import flowmate_async.cli.app
import flowmate_async.sandbox.tokens
from flowmate_async.sandbox import ProviderFault, Sandbox, SandboxOptions

from .conftest import Ended, answering, http


class Vault:
    """A sandbox in this process, and everything in it that must never show."""

    def __init__(self, sandbox: Sandbox, tokens: list[str]) -> None:
        self.sandbox = sandbox
        self.tokens = tokens

    def secrets(self) -> set[bytes]:
        """Every token made so far and every credential as it is now, as bytes and as JSON escapes them."""
        texts = {self.sandbox.admin_token, *self.tokens}
        for truth in self.sandbox.world.truth():
            texts |= {
                part for name, part in truth.value.items() if name in CREDENTIALS and isinstance(part, str)
            }
        texts = {text for text in texts if len(text) >= 8}
        assert len(texts) > 100
        lines = {line for text in texts for line in text.splitlines() if len(line) >= 12}
        escaped = {msgspec.json.encode(text)[1:-1] for text in texts}
        return escaped | {repr(text)[1:-1].encode() for text in texts} | {line.encode() for line in lines}


CREDENTIALS = {"passphrase", "key", "accessToken", "accessTokenSecret", "payload", "opaque", "refreshToken"}


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[Vault]:
    tokens: list[str] = []
    genuine = flowmate_async.sandbox.tokens.new_token

    def recorded() -> str:
        tokens.append(genuine())
        return tokens[-1]

    monkeypatch.setattr(flowmate_async.sandbox.tokens, "new_token", recorded)
    with start_blocking_portal() as portal:
        options = SandboxOptions(users=40, seed=7, lock_seconds=0.05, lock_wait_seconds=(0.01, 0.02))
        with portal.wrap_async_context_manager(Sandbox(options)) as sandbox:
            yield Vault(sandbox, tokens)


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Every log record and every traceback with its locals, as text."""
    texts: list[str] = []
    genuine = flowmate_async.cli.app.exit_code

    def exit_code(error: Exception) -> int:
        trace = traceback.TracebackException(*sys.exc_info(), capture_locals=True)
        texts.extend(trace.format(chain=True))
        texts.extend([repr(error), str(error), repr(vars(error))])
        return genuine(error)

    monkeypatch.setattr(flowmate_async.cli.app, "exit_code", exit_code)
    with caplog.at_level(logging.DEBUG):
        yield texts
    for record in caplog.records:
        texts += [record.getMessage(), repr(vars(record))]


def leaks(vault: Vault, haystack: bytes) -> list[bytes]:
    return [needle for needle in vault.secrets() if needle in haystack]


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry without waiting."""
    monkeypatch.setattr("random.uniform", lambda low, high: low)


def test_a_whole_sync_with_failures_shows_no_credential(flowmate, vault, observed, monkeypatch, home, caplog):
    monkeypatch.setenv("FLOWMATE_BASE_URL", vault.sandbox.url)
    monkeypatch.setenv("FLOWMATE_ADMIN_TOKEN", vault.sandbox.admin_token)
    monkeypatch.setenv("FLOWMATE_RATE", "0")
    monkeypatch.setenv("FLOWMATE_STORE", f"sqlite:///{home / 'credentials.db'}")
    monkeypatch.setenv("FLOWMATE_STORE_KEY", "5a" * 32)
    before = vault.secrets()
    ended: list[Ended] = []
    report = ("--report", str(home / "report.json"), "--report", str(home / "report.html"))
    report += ("--metrics-file", str(home / "flowmate.prom"))
    ended.append(flowmate("sync", "--all-users", *report))
    vault.sandbox.configure(provider_fault=ProviderFault.ERROR_BODY)
    ended.append(flowmate("sync", "--all-users", *report))
    vault.sandbox.configure(provider_fault=None, raw_read=False)
    ended.append(flowmate("sync", "--all-users", "--concurrency", "2"))
    vault.sandbox.configure(raw_read=True)
    username, secret_id = next((item.username, item.secret_id) for item in vault.sandbox.world.truth())
    ended.append(flowmate("get", username, secret_id))
    ended.append(flowmate("store", "get", username, secret_id))
    ended.append(flowmate("store", "get", username, "no-such-id"))
    ended.append(flowmate("store", "verify"))
    ended.append(flowmate("sync", "nobody", *report))
    vault.sandbox.reset_stats()
    ended += [flowmate("sync", "--all-users", "--keep-tokens", *report) for _ in range(2)]
    monkeypatch.setenv("FLOWMATE_STORE_KEY", "a5" * 32)
    ended.append(flowmate("store", "verify"))
    credential = next(iter(vault.sandbox.world.truth())).value
    for body in (b'{"data":' + msgspec.json.encode([credential]), msgspec.json.encode({"data": credential})):
        with answering(http(body)) as url:
            monkeypatch.setenv("FLOWMATE_BASE_URL", url)
            ended.append(flowmate("users"))
    ended.append(flowmate("users"))  # nobody listens any more
    # The third sync is a delta: what it did not fetch was readable before, so the tenant is not all masked.
    assert [end.code for end in ended] == [0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 2, 3, 3, 3]

    shown = "".join(end.out + end.err for end in ended).encode()
    assert vault.sandbox.stats().impersonations == 40, (
        "the last sync of all used what the one before has kept"
    )
    on_disk = b"".join(path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file())
    logged = "".join(observed + [repr(vars(record)) for record in caplog.records]).encode()
    assert b"capture" not in logged
    assert len(observed) > 10
    for haystack in (shown, on_disk, logged):
        assert leaks(vault, haystack) == []
        assert [needle for needle in before if needle in haystack] == []


def test_the_search_itself_finds_what_leaks(vault):
    """The test above can fail."""
    needle = next(iter(vault.secrets()))
    assert needle in leaks(vault, b"... " + needle + b" ...")
