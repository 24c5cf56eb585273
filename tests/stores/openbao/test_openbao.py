"""What an OpenBao store promises beyond the laws of every store."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from flowmate_async.errors import ConfigurationError, StoreError
from flowmate_async.stores import Written, open_store
from flowmate_async.stores.documents.store import DocumentStore
from flowmate_async.stores.encoding import Plaintext
from flowmate_async.stores.openbao.address import parse_address
from flowmate_async.stores.openbao.store import OpenBaoDocuments, openbao_store
from flowmate_async.system.private_files import create_private, write_private_atomically
from flowmate_async.testing.samples import api_key
from flowmate_async.testing.scripted_server import ScriptedServer, http
from flowmate_async.testing.store_writes import ORIGIN, synced, write
from tests.stores.openbao_server import OpenBaoServer

pytestmark = pytest.mark.anyio

OpenBao = Callable[[], DocumentStore]


def path_of(url: str) -> str:
    return urlsplit(url).path.removeprefix("/secret/")


class TestDocuments:
    async def test_another_program_reads_a_credential_with_the_permission_to(
        self, open_openbao: OpenBao, openbao: OpenBaoServer, openbao_url: str
    ) -> None:
        async with open_openbao() as store:
            await write(store, synced("ann.b@example", api_key()))
        answer = openbao.ask("GET", f"secret/data/{path_of(openbao_url)}/users/ann=2Eb@example")
        document = json.loads(answer["data"]["data"]["document"])
        assert document["secrets"]["secret-1"]["secret"]["value"] == {"key": "sample", "headerName": "X-Key"}

    async def test_no_username_leaves_the_store(
        self, open_openbao: OpenBao, openbao: OpenBaoServer, openbao_url: str
    ) -> None:
        names = ["../../sys/seal", "..", "a/b", "%2e%2e%2f", "?list=true", "x#y"]
        async with open_openbao() as store:
            await write(store, *(synced(name, api_key()) for name in names))
            assert [item.username async for item in store.items()] == sorted(names)
        listed = openbao.ask("LIST", f"secret/metadata/{path_of(openbao_url)}")
        assert listed["data"]["keys"] == ["store", "users/"]

    @pytest.mark.parametrize("versions", [1, 3])
    async def test_the_server_keeps_a_bounded_number_of_versions(
        self, openbao: OpenBaoServer, openbao_url: str, versions: int
    ) -> None:
        """And takes no write that does not say what it replaces."""
        async with openbao_store(f"{openbao_url}&versions={versions}") as store:
            run = await write(store)
            for number in range(6):
                await store.write(run, [synced("ann", api_key(key=str(number)))])
        place = f"{path_of(openbao_url)}/users/ann"
        assert len(openbao.ask("GET", f"secret/metadata/{place}")["data"]["versions"]) == versions
        with pytest.raises(HTTPError, match="400"):
            openbao.ask("POST", f"secret/data/{place}", {"data": {"document": "{}"}})

    async def test_what_is_deleted_leaves_no_version_behind(
        self, open_openbao: OpenBao, openbao: OpenBaoServer, openbao_url: str
    ) -> None:
        async with open_openbao() as store:
            await write(store, synced("ann", api_key()), synced("bob", api_key()))
            run = await store.begin_run(at=2.0)
            await store.note_missing(run, ["ann"])
            assert await store.remove_missing(run, how="delete", at=3.0) == 1
        listed = openbao.ask("LIST", f"secret/metadata/{path_of(openbao_url)}/users/")
        assert listed["data"]["keys"] == ["bob"]

    async def test_reading_makes_no_document(self, openbao: OpenBaoServer, openbao_url: str) -> None:
        with pytest.raises(StoreError, match="there is no store"):
            await open_store(openbao_url, create=False).__aenter__()
        with pytest.raises(HTTPError, match="404"):
            openbao.ask("LIST", f"secret/metadata/{path_of(openbao_url)}")

    async def test_a_damaged_document_is_named_and_heals(
        self, open_openbao: OpenBao, openbao: OpenBaoServer, openbao_url: str
    ) -> None:
        async with open_openbao() as store:
            run = await write(store, synced("ann", api_key()), synced("bob", api_key()))
            body = {"options": {"cas": 1}, "data": {"document": "no JSON"}}
            openbao.ask("POST", f"secret/data/{path_of(openbao_url)}/users/ann", body)
            assert (await store.verify()).damaged == (("ann", "*"),)
            with pytest.raises(StoreError, match="Sync this user again"):
                await store.get("ann", "secret-1")
            assert await store.write(run, [synced("ann", api_key())]) == Written(1, 0)
            assert (await store.verify()).damaged == ()


class TestFailure:
    async def test_a_batch_that_fails_half_way_leaves_whole_users(
        self, openbao: OpenBaoServer, openbao_url: str, tmp_path: Path, open_openbao: OpenBao
    ) -> None:
        """A policy forbids one user's document; the others are written with their checkpoints."""
        place = path_of(openbao_url)
        rules = {
            f"secret/data/{place}/users/user05": ["deny"],
            f"secret/+/{place}/*": ["create", "read", "update", "list"],
        }
        users = [synced(f"user{number:02}", api_key("a"), api_key("b")) for number in range(10)]
        async with open_openbao() as store:
            run = await write(store)
        async with openbao_store(with_token(openbao, openbao_url, rules, tmp_path)) as store:
            with pytest.raises(StoreError, match="token was refused"):
                await store.write(run, users)
        async with open_openbao() as store:
            done = await store.statuses(run, [user.checkpoint.username for user in users])
            assert "user05" not in done
            assert 0 < len(done) < 10
            assert [item.username async for item in store.items()] == sorted([*done, *done])
            assert (await store.write(run, users)).changed == 2 * (10 - len(done))

    async def test_a_token_that_was_replaced_is_read_again(
        self, openbao: OpenBaoServer, openbao_url: str, tmp_path: Path
    ) -> None:
        """As an agent does that renews it."""
        rules = {"secret/*": ["create", "read", "update", "list"]}
        url = with_token(openbao, openbao_url, rules, tmp_path)
        async with openbao_store(url) as store:
            await store.bind(ORIGIN)
            old = (tmp_path / "token").read_text()
            write_private_atomically(tmp_path / "token", openbao.token.encode())
            openbao.ask("POST", "auth/token/revoke", {"token": old})
            assert await store.origin() == ORIGIN

    async def test_a_refused_token_is_never_shown(
        self, openbao_url: str, monkeypatch: pytest.MonkeyPatch, exposed: Callable[[BaseException], str]
    ) -> None:
        monkeypatch.setenv("BAO_TOKEN", "never-show-this")
        with pytest.raises(StoreError, match="Check BAO_TOKEN") as caught:
            await openbao_store(openbao_url).__aenter__()
        assert "never-show-this" not in exposed(caught.value)

    async def test_what_passes_is_tried_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server that is being unsealed, or is swamped."""
        document = {"data": {"document": "{}"}, "metadata": {"version": 1}}
        answers = [(503, {"errors": ["sealed"]}), (429, {}), (200, {"data": document})]
        async with scripted(answers, monkeypatch) as (store, asked), store:
            pass
        assert [request.split("?")[0] for request in asked] == ["GET /v1/secret/data/x/store"] * 3

    async def test_what_stays_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with scripted([(503, {"errors": ["Vault is sealed"]})] * 9, monkeypatch) as (store, asked):
            with pytest.raises(StoreError, match=r"Vault is sealed.*what was acknowledged is kept"):
                await store.__aenter__()
        assert len(asked) == 5

    @pytest.mark.parametrize("status", [307, 472, 473])
    async def test_a_standby_is_asked_again_and_then_named(
        self, status: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The active node may be changing. The redirect is not followed: the token would go along."""
        async with scripted([(status, {})] * 9, monkeypatch) as (store, asked):
            with pytest.raises(StoreError, match=rf"{status}: this node is a standby.*api_addr"):
                await store.__aenter__()
        assert len(asked) == 5
        assert not any("elsewhere" in one for one in asked)

    async def test_a_standby_that_becomes_active_is_not_noticed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        state = {"data": {"data": {"document": '{"format":1}'}, "metadata": {"version": 1}}}
        async with scripted([(307, {}), (473, {}), (200, state)], monkeypatch) as (store, asked), store:
            assert len(asked) == 3

    async def test_another_redirect_is_not_followed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with scripted([(302, {})], monkeypatch) as (store, asked):
            with pytest.raises(StoreError, match="302"):
                await store.__aenter__()
        assert len(asked) == 1

    async def test_a_mount_that_is_not_there_is_said(self, openbao: OpenBaoServer, openbao_url: str) -> None:
        with pytest.raises(StoreError, match=r"no handler for route.*mount"):
            await openbao_store(openbao_url.replace("/secret/", "/nowhere/")).__aenter__()

    @pytest.mark.parametrize("named", ["", "&namespace=team/a"])
    async def test_the_namespace_is_sent_with_every_request(
        self, named: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without it another place is read and written."""
        monkeypatch.setenv("BAO_TOKEN", "any")
        monkeypatch.setenv("BAO_NAMESPACE", "of/the/environment")
        written = http(b'{"data":{"version":1}}')
        async with ScriptedServer(http(b'{"errors":[]}', "404 Not Found"), *[written] * 3) as server:
            port = server.url.rpartition(":")[2]
            documents = OpenBaoDocuments(parse_address(f"openbao://127.0.0.1:{port}/secret/x?tls=off{named}"))
            async with documents:
                assert await documents.read("store") is None
                await documents.write("store", Plaintext(b"{}"), replacing=None)
            sent = [_header(request, b"X-Vault-Namespace") for request in server.requests]
        assert sent == ["team/a" if named else "of/the/environment"] * 3


class TestAddress:
    @pytest.mark.parametrize(
        "url",
        [
            "openbao://host",
            "openbao://host/secret",
            "openbao://host:x/secret/a",
            "openbao://host/secret/../sys",
            "openbao://host/secret/a?color=red",
            "openbao://host/secret/a?versions=0",
            "openbao://host/secret/a?tls=maybe",
            "openbao://host/secret/a?versions=101",
            "openbao://somebody@host/secret/a",
            "openbao:///secret/a",
        ],
    )
    def test_a_url_that_cannot_work_is_refused(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("BAO_ADDR", "VAULT_ADDR"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(ConfigurationError, match="It looks like openbao://"):
            open_store(url)

    def test_plain_http_is_for_this_machine_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert parse_address("openbao://host/secret/a").origin == "https://host:8200"
        assert parse_address("openbao://[::1]:9/secret/a?tls=off").origin == "http://[::1]:9"
        with pytest.raises(ConfigurationError, match="in clear"):
            parse_address("openbao://host/secret/a?tls=off")
        monkeypatch.setenv("BAO_ADDR", "http://host:8200")
        with pytest.raises(ConfigurationError, match="in clear"):
            parse_address("openbao:///secret/a")
        monkeypatch.setenv("BAO_ADDR", "https://bao.example:8443")
        assert parse_address("openbao:///secret/a").origin == "https://bao.example:8443"

    def test_a_token_in_the_url_is_refused(self) -> None:
        for url in ("openbao://:s.abc@host/secret/a", "openbao://host/secret/a?token=s.abc"):
            with pytest.raises(ConfigurationError, match="holds a credential") as caught:
                open_store(url)
            assert "s.abc" not in str(caught.value)

    async def test_without_a_token_all_places_are_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("BAO_TOKEN", "VAULT_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(ConfigurationError, match="BAO_TOKEN"):
            await openbao_store("openbao://127.0.0.1:9/secret/a?tls=off").__aenter__()

    @pytest.mark.parametrize("home", [None, "/proc/1/root", "/nowhere"])
    async def test_a_token_of_the_environment_needs_no_home(
        self, home: str | None, openbao_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As in a container whose user has no home, or another user's."""

        def no_home() -> Path:
            raise RuntimeError("Could not determine home directory.")

        if home is None:
            monkeypatch.setattr(Path, "home", no_home)
        else:
            monkeypatch.setenv("HOME", home)
        async with openbao_store(openbao_url):
            pass
        monkeypatch.delenv("BAO_TOKEN")
        monkeypatch.delenv("VAULT_TOKEN", raising=False)
        with pytest.raises(ConfigurationError, match="there is no token"):
            await openbao_store(openbao_url).__aenter__()


def with_token(openbao: OpenBaoServer, url: str, rules: dict[str, list[str]], folder: Path) -> str:
    """The same place with a token that may do this much, in a file."""
    name = path_of(url)
    policy = "".join(
        f"path {json.dumps(path)} {{ capabilities = {json.dumps(allowed)} }}\n"
        for path, allowed in rules.items()
    )
    openbao.ask("PUT", f"sys/policies/acl/{name}", {"policy": policy})
    made = openbao.ask("POST", "auth/token/create", {"policies": [name]})
    create_private(folder / "token", made["auth"]["client_token"].encode())
    return f"{url}&token_file={folder / 'token'}"


class _Impatient:
    """A clock on which no wait takes time."""

    def monotonic(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        pass


@asynccontextmanager
async def scripted(
    answers: list[tuple[int, object]], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[DocumentStore, list[str]]]:
    """A store of a server that gives these answers in turn, and what it was asked."""
    monkeypatch.setenv("BAO_TOKEN", "any")
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(f"{request.method} {request.path_qs}")
        status, body = answers[len(asked) - 1]
        return web.json_response(
            body, status=status, headers={"Location": "/elsewhere"} if 300 < status < 400 else {}
        )

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        address = parse_address(f"openbao://127.0.0.1:{runner.addresses[0][1]}/secret/x?tls=off")
        yield DocumentStore(OpenBaoDocuments(address, clock=_Impatient())), asked
    finally:
        await runner.cleanup()


def _header(request: bytes, name: bytes) -> str:
    head = request.partition(b"\r\n\r\n")[0]
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    return fields[name].decode()
