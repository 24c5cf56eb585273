"""What the tests of observers share: a sandbox in this process, and everything in it that must never show."""

import pytest

import flowmate_async.sandbox.tokens
from flowmate_async.sandbox import Sandbox, SandboxOptions

CREDENTIALS = {"passphrase", "key", "accessToken", "accessTokenSecret", "payload", "opaque", "refreshToken"}


@pytest.fixture
def tokens(monkeypatch):
    """Every token the sandbox mints, as it is minted."""
    minted = []
    genuine = flowmate_async.sandbox.tokens.new_token

    def recorded():
        minted.append(genuine())
        return minted[-1]

    monkeypatch.setattr(flowmate_async.sandbox.tokens, "new_token", recorded)
    return minted


@pytest.fixture
async def sandbox(tokens):
    """A sandbox with 20 users, whose tokens are known."""
    async with Sandbox(SandboxOptions(users=20, seed=7)) as running:
        yield running


@pytest.fixture
def leaks(sandbox, tokens):
    """Credentials, tokens, and, if asked for, ids that a text holds."""

    def search(text, *, ids=False):
        truths = list(sandbox.world.truth())
        needles = {sandbox.admin_token, *tokens}
        needles |= {
            value
            for truth in truths
            for name, value in truth.value.items()
            if name in CREDENTIALS and isinstance(value, str) and len(value) >= 8
        }
        assert len(needles) > 50
        if ids:
            needles |= {truth.username for truth in truths} | {truth.secret_id for truth in truths}
        return sorted(needle for needle in needles if needle in text)

    return search
