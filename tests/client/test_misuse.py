"""A misused client says what is wrong before it sends anything."""

import pytest

from flowmate_async import ConfigurationError, FlowMate, FlowMateSync, StoreKey, open_store

pytestmark = pytest.mark.anyio

USER = "user-000001@tenant.example"


def client_of(sandbox, **options):
    return FlowMate(**{"admin_token": sandbox.admin_token, "base_url": sandbox.url, "rate": None} | options)


class TestItsBlock:
    async def test_a_client_that_was_not_entered_says_so(self, sandbox):
        fm = client_of(sandbox)
        for call in (fm.credential(USER, "a"), fm.get_secret(USER, "a"), fm.list_secrets(USER)):
            with pytest.raises(ConfigurationError, match=r"before it is entered.*async with"):
                await call
        with pytest.raises(ConfigurationError, match="before it is entered"):
            [user async for user in fm.users()]

    async def test_a_client_is_entered_once(self, sandbox):
        async with client_of(sandbox) as fm:
            with pytest.raises(ConfigurationError, match="entered before"):
                await fm.__aenter__()
            assert await fm.list_secrets(USER)
        with pytest.raises(ConfigurationError, match="entered before"):
            await fm.__aenter__()


class TestOneUsernameForMany:
    """Its letters are not users: FlowMate would make users of them."""

    @pytest.mark.parametrize("usernames", [USER, USER.encode()])
    async def test_it_is_refused_and_nobody_is_impersonated(self, sandbox, fm, usernames):
        with pytest.raises(ConfigurationError, match="single text"):
            [outcome async for outcome in fm.sweep(usernames)]
        async with open_store("memory:") as store:
            for job in (fm.sync, fm.plan_sync):
                with pytest.raises(ConfigurationError, match="single text"):
                    await job(store, users=usernames)
        assert sandbox.stats().impersonations == 0

    async def test_bytes_among_usernames_are_called_what_they_are(self, fm):
        [outcome] = [outcome async for outcome in fm.sweep([USER.encode()])]
        assert "text, not bytes" in str(outcome.error)


class TestStore:
    async def test_a_url_is_not_a_store_yet(self, fm):
        for job in (fm.sync, fm.plan_sync):
            with pytest.raises(ConfigurationError, match="open_store"):
                await job("sqlite:///credentials.db")

    @pytest.mark.parametrize("name", ["key", "other_key"])
    @pytest.mark.parametrize("key", ["5a" * 32, b"Z" * 32])
    async def test_a_key_as_text_is_refused_and_not_shown(self, name, key):
        keys = {"key": StoreKey.generate()} | {name: key}
        with pytest.raises(
            ConfigurationError, match=r"StoreKey, not (str|bytes)\b.*StoreKey\.parse"
        ) as raised:
            open_store("sqlite:///credentials.db", **keys)
        frame = raised.traceback[-1].frame
        assert "open_store" in str(frame.code.name)
        assert repr(key) not in repr(frame.f_locals)


class TestKeepFresh:
    async def test_what_is_no_pair_is_refused(self, fm):
        for pairs in ([USER], (USER, "a" * 24), [(USER, "a" * 24, 60)]):
            with pytest.raises(ConfigurationError, match="pairs"):
                fm.keep_fresh(pairs)


class TestArguments:
    @pytest.mark.parametrize("kind", [FlowMate, FlowMateSync])
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"admin_token": None}, "there is no admin token"),
            ({"admin_token": b"never-shown"}, "async function, not bytes"),
            ({"admin_token": "Bearer never-shown"}, "begins with Bearer"),
            ({"admin_token": "never shown"}, "blanks, line breaks"),
            ({"admin_token": "a", "base_url": None}, "base URL is text, not NoneType"),
        ],
    )
    def test_each_is_told_by_name_and_no_token_is_shown(self, kind, options, said):
        with pytest.raises(ConfigurationError, match=said) as raised:
            kind(**options)
        assert "never" not in str(raised.value)
