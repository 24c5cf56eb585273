"""What a store in AWS Secrets Manager promises beyond the laws of every store."""

import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from flowmate_async.errors import ConfigurationError, StoreError
from flowmate_async.stores import Written, open_store
from flowmate_async.stores.aws.calls import parse_address
from flowmate_async.stores.aws.chunking import LARGEST_SECRET, split
from flowmate_async.stores.aws.store import AwsDocuments, aws_store
from flowmate_async.stores.documents.base import Conflict
from flowmate_async.stores.documents.store import DocumentStore
from flowmate_async.stores.encoding import Plaintext
from flowmate_async.testing.samples import api_key
from flowmate_async.testing.store_writes import synced, write
from flowmate_async.values.secrets import MixedSecret, MixedValue

pytestmark = pytest.mark.anyio

OpenAws = Callable[[], DocumentStore]


def mixed(payload: str) -> MixedSecret:
    return MixedSecret(id="m", value=MixedValue(payload=payload))


async def secrets_of(url: str) -> list[str]:
    """The names of all secrets of a store, without its prefix."""
    address = parse_address(url)
    async with AwsDocuments(address) as documents:
        names = [name async for name in documents._listed(address.prefix)]
    return sorted(name.removeprefix(f"{address.prefix}/") for name in names)


class TestSecrets:
    async def test_there_is_one_for_each_user_and_one_for_the_store(
        self, open_aws: OpenAws, aws_url: str
    ) -> None:
        """Since each is billed; however many credentials a user has, and however often they are synced."""
        for at in range(3):
            async with open_aws() as store:
                await write(
                    store, synced("ann", api_key("a", str(at)), api_key("b")), synced("bob", api_key())
                )
        assert await secrets_of(aws_url) == ["store", "users/ann", "users/bob"]

    async def test_a_user_who_has_too_much_for_one_has_several(self, open_aws: OpenAws, aws_url: str) -> None:
        """As many as are needed, until fewer are; none of them is a user."""
        big, small = mixed("é" * LARGEST_SECRET), mixed("small")
        async with open_aws() as store:
            run = await write(store, synced("ann", big), synced("bob", api_key()))
            assert await secrets_of(aws_url) == [
                *("store", "users/ann", "users/ann+0", "users/ann+1", "users/ann+2", "users/bob")
            ]
            assert await store.get("ann", "m") == big
            assert await store.write(run, [synced("ann", big)]) == Written(0, 1)
            assert [item.username async for item in store.items()] == ["ann", "bob"]
            await store.write(run, [synced("ann", small)])
            assert await store.get("ann", "m") == small
        assert await secrets_of(aws_url) == ["store", "users/ann", "users/bob"]

    async def test_what_is_deleted_leaves_no_part_behind(self, open_aws: OpenAws, aws_url: str) -> None:
        async with open_aws() as store:
            await write(store, synced("ann", mixed("x" * LARGEST_SECRET)))
            run = await store.begin_run(at=2.0)
            await store.note_missing(run, ["ann"])
            assert await store.remove_missing(run, how="delete", at=3.0) == 1
        assert await secrets_of(aws_url) == ["store"]

    async def test_a_user_whose_part_is_lost_is_damaged_and_heals(
        self, open_aws: OpenAws, aws_url: str
    ) -> None:
        big = mixed("x" * LARGEST_SECRET)
        async with open_aws() as store:
            run = await write(store, synced("ann", big))
            async with AwsDocuments(parse_address(aws_url)) as documents:
                await documents._delete(documents._secret_of("users/ann+1"))
            assert (await store.verify()).damaged == (("ann", "*"),)
            assert await store.write(run, [synced("ann", big)]) == Written(1, 0)
            assert await store.get("ann", "m") == big

    async def test_of_two_who_replace_the_same_version_one_learns_of_it(self, aws_url: str) -> None:
        """Also when both had been the first to write at all."""
        async with AwsDocuments(parse_address(aws_url)) as documents:
            await documents.write("users/ann", Plaintext(b"{}"), replacing=None)
            with pytest.raises(Conflict):
                await documents.write("users/ann", Plaintext(b'{"a":1}'), replacing=None)
            first = await documents.read("users/ann")
            await documents.write("users/ann", Plaintext(b'{"b":1}'), replacing=first)
            with pytest.raises(Conflict):
                await documents.write("users/ann", Plaintext(b'{"c":1}'), replacing=first)
            assert (await documents.read("users/ann")).data == b'{"b":1}'


@given(st.text(max_size=60), st.integers(4, 20))
def test_parts_are_short_whole_texts_and_nothing_is_lost(text: str, largest: int) -> None:
    """Four bytes hold any character."""
    parts = split(Plaintext(text.encode()), largest=largest)
    assert "".join(part.data.decode() for part in parts) == text
    assert all(0 < len(part.data) <= largest for part in parts)


class TestFailure:
    @pytest.fixture(autouse=True)
    def quickly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Retry without waiting."""
        monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)

    async def test_no_credential_is_ever_logged(
        self, open_aws: OpenAws, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The driver would, at the level that everything is logged at."""
        with caplog.at_level(logging.DEBUG):
            async with open_aws() as store:
                await write(store, synced("ann", mixed("never-log-this")))
                await store.get("ann", "m")
        assert "never-log-this" not in caplog.text
        assert "access-key-of-the-tests" not in caplog.text

    @pytest.mark.parametrize(
        ("kind", "advice"),
        [
            ("AccessDeniedException", "permissions"),
            ("UnrecognizedClientException", "credentials"),
            ("LimitExceededException", "too many versions"),
            ("InternalServiceError", "what was acknowledged is kept"),
        ],
    )
    async def test_a_refusal_is_said_without_the_credential(
        self,
        aws_url: str,
        kind: str,
        advice: str,
        monkeypatch: pytest.MonkeyPatch,
        exposed: Callable[[BaseException], str],
    ) -> None:
        async with refusing(kind) as endpoint:
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            async with AwsDocuments(parse_address(aws_url)) as documents:
                with pytest.raises(StoreError, match=f"{kind.removesuffix('Exception')}.*{advice}") as caught:
                    await documents.write("users/ann", Plaintext(b"never-show-this"), replacing=None)
        shown = exposed(caught.value)
        assert "never-show-this" not in shown
        assert "access-key-of-the-tests" not in shown

    async def test_a_service_that_is_not_there_is_said(
        self, aws_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(StoreError, match="Could not connect"):
            await aws_store(aws_url).__aenter__()

    async def test_credentials_never_cross_a_network_in_clear(
        self, aws_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://aws.example")
        with pytest.raises(ConfigurationError, match="plain HTTP"):
            await aws_store(aws_url).__aenter__()

    async def test_without_a_region_that_is_said(self, aws_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
        with pytest.raises(ConfigurationError, match="region"):
            await aws_store("awssm:///flowmate").__aenter__()

    async def test_reading_makes_no_secret(self, aws_url: str) -> None:
        with pytest.raises(StoreError, match="there is no store"):
            await open_store(aws_url, create=False).__aenter__()
        assert await secrets_of(aws_url) == []

    def test_without_the_driver_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "aiobotocore.session", None)
        with pytest.raises(ConfigurationError, match=r"flowmate-async\[aws\]"):
            open_store("awssm://eu-central-1/flowmate")

    @pytest.mark.parametrize(
        "url",
        [
            "awssm://eu-central-1",
            "awssm://eu-central-1/",
            "awssm://eu central/x",
            "awssm://eu-central-1/a//b",
            "awssm://eu-central-1/-x",
            "awssm://eu-central-1/x?color=red",
            f"awssm://eu-central-1/{'x' * 61}",
        ],
    )
    def test_a_url_that_cannot_work_is_refused(self, url: str) -> None:
        with pytest.raises(ConfigurationError, match="It looks like awssm://"):
            open_store(url)


@asynccontextmanager
async def refusing(kind: str) -> AsyncIterator[str]:
    """A service that refuses everything."""

    async def refuse(_: web.BaseRequest) -> web.Response:
        return web.json_response({"__type": kind, "Message": "no"}, status=400)

    runner = web.ServerRunner(web.Server(refuse))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
