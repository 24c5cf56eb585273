"""One odd document never stops the others: deleted, destroyed, expired, foreign, misplaced ones.

Each affects one user at most: the next sync writes all users, and ``verify`` names what is not a user's.
"""

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiobotocore.session
import msgspec
import pytest
from aiohttp import web

from flowmate_async.errors import StoreError
from flowmate_async.stores import Run, open_store
from flowmate_async.stores.aws.calls import parse_address
from flowmate_async.stores.aws.store import AwsDocuments
from flowmate_async.stores.base import RunTotals
from flowmate_async.stores.encoding import Plaintext
from flowmate_async.testing.samples import api_key
from flowmate_async.testing.store_writes import collect, listing, synced, write
from tests.stores.openbao_server import OpenBaoServer

pytestmark = pytest.mark.anyio

USERS = ("ann", "bob", "cid")
NEWER = api_key("secret-2")


async def open_and_write_all(url: str) -> None:
    async with open_store(url) as store:
        run = await write(store, *(listing(user, api_key()) for user in USERS))
        await store.finish_run(run, at=2.0)


async def require_that_all_are_synced(url: str) -> None:
    """What a run does, with everything that it reads."""
    async with open_store(url) as store:
        run = await store.begin_run(at=3.0)
        await store.write(run, [listing(user, api_key(), NEWER) for user in USERS])
        assert await store.statuses(run, USERS) == dict.fromkeys(USERS, "synced")
        assert await store.totals(run) == RunTotals(synced=3, secrets=6, requests=6)
        assert (await store.missing(run)).missing == 0
        await store.note_missing(run, USERS[:1])
        assert await store.remove_missing(run, how="mark", at=4.0) == 2
        assert {item.username async for item in store.items()} == set(USERS)
        assert {username for username, _ in await collect(store.secrets())} == set(USERS)
        assert await store.get("ann", NEWER.id) == NEWER


async def run_over_all(store: Any, *users: str) -> Run:
    run = await store.begin_run(at=3.0)
    await store.write(run, [listing(user, api_key()) for user in users])
    await store.totals(run)
    await store.missing(run)
    await store.remove_missing(run, how="delete", at=4.0)
    await collect(store.checkpoints(run))
    return run


class TestOpenBao:
    @pytest.fixture
    def path(self, openbao_url: str) -> str:
        return openbao_url.split("/secret/")[1].partition("?")[0]

    def deleted(self, openbao: OpenBaoServer, path: str) -> None:
        """``bao kv delete``: a soft delete."""
        openbao.ask("DELETE", f"secret/data/{path}")

    def destroyed(self, openbao: OpenBaoServer, path: str) -> None:
        """``bao kv destroy -versions=1``."""
        openbao.ask("PUT", f"secret/destroy/{path}", {"versions": [1]})

    def deleted_entirely(self, openbao: OpenBaoServer, path: str) -> None:
        """``bao kv metadata delete``."""
        openbao.ask("DELETE", f"secret/metadata/{path}")

    def replaced(self, openbao: OpenBaoServer, path: str) -> None:
        """``bao kv put``, with another program's fields."""
        openbao.ask("POST", f"secret/data/{path}", {"options": {"cas": 1}, "data": {"any": "thing"}})

    def replaced_by_a_number(self, openbao: OpenBaoServer, path: str) -> None:
        openbao.ask("POST", f"secret/data/{path}", {"options": {"cas": 1}, "data": {"document": 7}})

    def cut_short(self, openbao: OpenBaoServer, path: str) -> None:
        data = {"document": '{"username": "ann", "secr'}
        openbao.ask("POST", f"secret/data/{path}", {"options": {"cas": 1}, "data": data})

    @pytest.mark.parametrize("how", [deleted, destroyed, deleted_entirely])
    async def test_a_deleted_document_is_written_anew(
        self, how: Callable, openbao: OpenBaoServer, openbao_url: str, path: str
    ) -> None:
        """Check-and-set has to name the version that the deleted one had."""
        await open_and_write_all(openbao_url)
        how(self, openbao, f"{path}/users/ann")
        async with open_store(openbao_url) as store:
            assert await store.get("ann", "secret-1") is None
            assert [item.username async for item in store.items()] == ["bob", "cid"]
            assert (await store.verify()).damaged == ()
        await require_that_all_are_synced(openbao_url)

    async def test_an_expired_document_is_written_anew(
        self, openbao: OpenBaoServer, openbao_url: str, path: str
    ) -> None:
        """As with ``delete_version_after``; the server says when it went."""
        await open_and_write_all(openbao_url)
        openbao.ask("POST", f"secret/metadata/{path}/users/ann", {"delete_version_after": "1s"})
        openbao.ask("POST", f"secret/data/{path}/users/ann", {"options": {"cas": 1}, "data": {"a": "b"}})
        openbao.ask("POST", f"secret/metadata/{path}/users/ann", {"delete_version_after": "0s"})
        openbao.wait_until_gone(f"secret/data/{path}/users/ann")
        async with open_store(openbao_url) as store:
            assert await store.get("ann", "secret-1") is None
            assert (await store.verify()).damaged == ()
        await require_that_all_are_synced(openbao_url)

    @pytest.mark.parametrize("how", [replaced, replaced_by_a_number, cut_short])
    async def test_a_foreign_document_is_named_and_replaced(
        self, how: Callable, openbao: OpenBaoServer, openbao_url: str, path: str
    ) -> None:
        await open_and_write_all(openbao_url)
        how(self, openbao, f"{path}/users/ann")
        async with open_store(openbao_url) as store:
            assert (await store.verify()).damaged == (("ann", "*"),)
            assert [item.username async for item in store.items()] == ["bob", "cid"]
            with pytest.raises(StoreError, match=r"'ann'.*Sync this user again"):
                await store.get("ann", "secret-1")
            await run_over_all(store, "bob", "cid")
        await require_that_all_are_synced(openbao_url)

    async def test_documents_of_other_programs_below_the_path_are_left_alone(
        self, openbao: OpenBaoServer, openbao_url: str, path: str
    ) -> None:
        """Also folders, which are listed with a slash, and names that no user's document has."""
        await open_and_write_all(openbao_url)
        others = ["users/team/notes", "users/Some.One", "users/=sha256=ab", "notes", "users/=2e"]
        for other in others:
            openbao.ask("POST", f"secret/data/{path}/{other}", {"data": {"any": "thing"}})
        async with open_store(openbao_url) as store:
            assert (await store.verify()).damaged == ()
            await run_over_all(store, *USERS)
        await require_that_all_are_synced(openbao_url)
        for other in others:
            assert openbao.ask("GET", f"secret/data/{path}/{other}")["data"]["data"] == {"any": "thing"}

    @pytest.mark.parametrize("owner", ["ann", "long" * 300])
    async def test_a_document_in_another_users_place_is_not_theirs(
        self, owner: str, openbao: OpenBaoServer, openbao_url: str, path: str
    ) -> None:
        """As a restore at the wrong path, or a rename, puts it there; names that are hashed included."""
        async with open_store(openbao_url) as store:
            await write(store, synced(owner, api_key()))
        (name,) = openbao.ask("LIST", f"secret/metadata/{path}/users")["data"]["keys"]
        copied = openbao.ask("GET", f"secret/data/{path}/users/{name}")["data"]["data"]
        openbao.ask("POST", f"secret/data/{path}/users/bob", {"data": copied})
        async with open_store(openbao_url) as store:
            assert await store.get("bob", "secret-1") is None
            assert [pair async for pair in store.secrets("bob")] == []
            assert [item.username async for item in store.items()] == [owner]
            assert (await store.verify()).damaged == (("bob", "*"),)
            run = await run_over_all(store, "bob")
            assert await store.statuses(run, ["bob"]) == {"bob": "synced"}
            assert (await store.verify()).damaged == ()

    async def test_a_credential_in_another_ones_place_does_not_open(
        self, openbao: OpenBaoServer, openbao_url: str, path: str
    ) -> None:
        """Within one user's document."""
        await open_and_write_all(openbao_url)
        found = openbao.ask("GET", f"secret/data/{path}/users/ann")["data"]["data"]
        document = msgspec.json.decode(found["document"])
        document["secrets"]["secret-9"] = document["secrets"]["secret-1"]
        data = {"document": msgspec.json.encode(document).decode()}
        openbao.ask("POST", f"secret/data/{path}/users/ann", {"options": {"cas": 1}, "data": data})
        async with open_store(openbao_url) as store:
            assert (await store.verify()).damaged == (("ann", "secret-9"),)
            with pytest.raises(StoreError, match="'ann'"):
                await store.get("ann", "secret-9")

    async def test_the_stores_own_document_can_be_deleted(
        self, openbao: OpenBaoServer, openbao_url: str, path: str
    ) -> None:
        """Reading says that it is gone; the next sync makes a new one and keeps the users'."""
        await open_and_write_all(openbao_url)
        openbao.ask("DELETE", f"secret/data/{path}/store")
        with pytest.raises(StoreError, match="there is no store"):
            await open_store(openbao_url, create=False).__aenter__()
        async with open_store(openbao_url) as store:
            await store.bind("https://flowmate.example")
            run = await store.begin_run(at=5.0)
            assert (await store.write(run, [synced("ann", api_key())])).unchanged == 1


class TestAws:
    @pytest.fixture
    def prefix(self, aws_url: str) -> str:
        return aws_url.rpartition("/")[2]

    async def scheduled_for_deletion(self, aws: Any, secret: str) -> None:
        """What the console does: for 7 to 30 days no other secret of that name can be made."""
        await aws.delete_secret(SecretId=secret, RecoveryWindowInDays=7)

    async def deleted_at_once(self, aws: Any, secret: str) -> None:
        await aws.delete_secret(SecretId=secret, ForceDeleteWithoutRecovery=True)

    async def without_a_value(self, aws: Any, secret: str) -> None:
        """As Terraform makes them."""
        await aws.delete_secret(SecretId=secret, ForceDeleteWithoutRecovery=True)
        await aws.create_secret(Name=secret)

    async def binary(self, aws: Any, secret: str) -> None:
        await aws.put_secret_value(SecretId=secret, SecretBinary=b"\xff\x00")

    async def of_another_program(self, aws: Any, secret: str) -> None:
        await aws.put_secret_value(SecretId=secret, SecretString='{"any": "thing"}')

    async def plain_text(self, aws: Any, secret: str) -> None:
        await aws.put_secret_value(SecretId=secret, SecretString="a password")

    @pytest.mark.parametrize("how", [scheduled_for_deletion, deleted_at_once, without_a_value])
    async def test_a_secret_without_a_value_is_written_anew(
        self, how: Callable, aws_url: str, prefix: str
    ) -> None:
        await open_and_write_all(aws_url)
        async with client() as aws:
            await how(self, aws, f"{prefix}/users/ann")
        async with open_store(aws_url) as store:
            assert await store.get("ann", "secret-1") is None
            assert {item.username async for item in store.items()} == {"bob", "cid"}
            assert (await store.verify()).damaged == ()
        await require_that_all_are_synced(aws_url)

    @pytest.mark.parametrize("how", [binary, of_another_program, plain_text])
    async def test_a_foreign_secret_is_named_and_replaced(
        self, how: Callable, aws_url: str, prefix: str
    ) -> None:
        await open_and_write_all(aws_url)
        async with client() as aws:
            await how(self, aws, f"{prefix}/users/ann")
        async with open_store(aws_url) as store:
            assert (await store.verify()).damaged == (("ann", "*"),)
            assert {item.username async for item in store.items()} == {"bob", "cid"}
            with pytest.raises(StoreError, match=r"'ann'.*Sync this user again"):
                await store.get("ann", "secret-1")
            await run_over_all(store, "bob", "cid")
        await require_that_all_are_synced(aws_url)

    async def test_a_part_that_is_scheduled_for_deletion_is_restored(
        self, aws_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A user's document that is too long for one secret; moto takes the value without a word."""
        in_deletion = ("InvalidRequestException", "The secret is scheduled for deletion")
        answers = {"PutSecretValue": [in_deletion, {}, {}], "CreateSecret": [{}]}
        async with answering(answers) as (endpoint, asked):
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            async with AwsDocuments(parse_address(aws_url)) as documents:
                await documents.write("users/ann", Plaintext(b"x" * 70_000), replacing=None)
        assert asked == [
            *("PutSecretValue", "RestoreSecret", "PutSecretValue", "PutSecretValue", "CreateSecret")
        ]

    async def test_a_secret_that_may_not_be_restored_is_named(
        self, aws_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        in_deletion = ("InvalidRequestException", "it was marked for deletion")
        answers = {"GetSecretValue": [in_deletion], "RestoreSecret": [("AccessDeniedException", "no")]}
        async with answering(answers) as (endpoint, _):
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            async with AwsDocuments(parse_address(aws_url)) as documents:
                found = await documents.read("users/ann")
                assert found is not None
                assert found.is_gone
                with pytest.raises(StoreError, match=r"users/ann.*scheduled for deletion.*restore-secret"):
                    await documents.write("users/ann", Plaintext(b"{}"), replacing=found)

    async def test_secrets_of_other_programs_below_the_prefix_are_left_alone(
        self, aws_url: str, prefix: str
    ) -> None:
        await open_and_write_all(aws_url)
        others = ["users/team/notes", "users/Some.One", "notes", "users/a+b"]
        async with client() as aws:
            for other in others:
                await aws.create_secret(Name=f"{prefix}/{other}", SecretBinary=b"x")
            async with open_store(aws_url) as store:
                assert (await store.verify()).damaged == ()
                await run_over_all(store, *USERS)
            await require_that_all_are_synced(aws_url)
            for other in others:
                found = await aws.get_secret_value(SecretId=f"{prefix}/{other}")
                assert found["SecretBinary"] == b"x"


@asynccontextmanager
async def client() -> AsyncIterator[Any]:
    session = aiobotocore.session.get_session()
    async with session.create_client(
        "secretsmanager", region_name="eu-central-1", endpoint_url=os.environ["AWS_ENDPOINT_URL"]
    ) as made:
        yield made


@asynccontextmanager
async def answering(
    answers: Mapping[str, Sequence[Any]],
) -> AsyncIterator[tuple[str, list[str]]]:
    """A service that gives these answers to each operation, then empty ones; and what it was asked."""
    left = {operation: list(given) for operation, given in answers.items()}
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        operation = request.headers["X-Amz-Target"].partition(".")[2]
        asked.append(operation)
        given = left.get(operation) or [{}]
        found = given.pop(0)
        if isinstance(found, tuple):
            return web.json_response({"__type": found[0], "Message": found[1]}, status=400)
        return web.json_response({"VersionId": "v", **found})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    finally:
        await runner.cleanup()
