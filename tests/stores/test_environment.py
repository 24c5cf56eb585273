"""What drivers take from the environment: no unrequested proxy, no key log, no empty variables."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme
from aiobotocore.config import AioConfig

from flowmate_async.errors import ConfigurationError
from flowmate_async.stores import open_store
from flowmate_async.stores.aws.calls import parse_address as aws_address
from flowmate_async.stores.aws.session import aws_session
from flowmate_async.stores.openbao.address import parse_address as openbao_address
from flowmate_async.stores.postgres.address import parse_address as postgres_address
from flowmate_async.testing.scripted_server import ScriptedServer, http

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

NOTHING = http(b'{"SecretList": []}')
SECRET_LESS = http(b'{"__type":"ResourceNotFoundException","message":"none"}', "400 Bad Request")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """AWS credentials, a home of its own, no proxy."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-invented-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "an-invented-key")
    monkeypatch.setenv("HOME", str(tmp_path))


@asynccontextmanager
async def proxies_named(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedServer]:
    """A proxy that every variable names."""
    async with ScriptedServer(*[http(b"", "407 Proxy Authentication Required")] * 20) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        yield proxy


async def opened(url: str) -> None:
    async with asyncio.timeout(20), open_store(url):
        pass


def secrets_manager(*, trust_env: bool) -> Any:
    """A client as the store makes it, which tries once."""
    once = AioConfig(retries={"total_max_attempts": 1, "mode": "standard"})
    return aws_session(trust_env=trust_env).create_client("secretsmanager", "eu-central-1", config=once)


class TestAws:
    async def test_plain_http_to_this_machine_goes_through_no_proxy(self, monkeypatch):
        async with ScriptedServer(*[SECRET_LESS] * 20) as service, proxies_named(monkeypatch) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", service.url)
            with pytest.raises(Exception):  # noqa: B017, PT011 - the stand-in has no store
                await opened("awssm://eu-central-1/fm")
        assert (bool(service.requests), proxy.requests) == (True, [])

    async def test_a_proxy_is_asked_for_https_with_trust_env_only(self, monkeypatch):
        async with proxies_named(monkeypatch) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:1")
            for url in ("awssm://eu-central-1/fm", "awssm://eu-central-1/fm?trust_env=off"):
                async with secrets_manager(trust_env=aws_address(url).trust_env) as service:
                    with pytest.raises(Exception, match="connect to the endpoint"):
                        await service.list_secrets()
            assert proxy.requests == []
            trusting = aws_address("awssm://eu-central-1/fm?trust_env=on").trust_env
            async with secrets_manager(trust_env=trusting) as service:
                with pytest.raises(Exception, match=r"(?i)proxy"):
                    await service.list_secrets()
            assert proxy.requests[0].startswith(b"CONNECT 127.0.0.1:1 ")

    async def test_trust_env_is_refused_for_plain_http(self, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        with pytest.raises(ConfigurationError, match="a proxy would read"):
            await opened("awssm://eu-central-1/fm?trust_env=on")

    @pytest.mark.parametrize("value", ["yes", "1", "On"])
    async def test_trust_env_is_on_or_off(self, value):
        with pytest.raises(ConfigurationError, match="not the URL of an AWS store"):
            open_store(f"awssm://eu-central-1/fm?trust_env={value}")

    async def test_the_metadata_service_is_reached_directly(self, monkeypatch):
        """It hands out the machine's AWS credentials in plain HTTP."""
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        async with (
            ScriptedServer(*[http(b"", "404 Not Found")] * 20) as metadata,
            proxies_named(monkeypatch) as proxy,
        ):
            monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
            monkeypatch.setenv("AWS_METADATA_SERVICE_NUM_ATTEMPTS", "1")
            for trusted in (False, True):
                assert await aws_session(trust_env=trusted).get_credentials() is None
        assert (bool(metadata.requests), proxy.requests) == (True, [])

    async def test_tls_is_verified_and_writes_no_key_log(self, monkeypatch, tmp_path):
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))
        async with ScriptedServer(*[NOTHING] * 20, tls=tls) as server:
            monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
            async with secrets_manager(trust_env=False) as service:
                with pytest.raises(Exception, match="SSL validation failed"):
                    await service.list_secrets()
            monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
            async with secrets_manager(trust_env=False) as service:
                assert (await service.list_secrets())["SecretList"] == []
        keys = tmp_path / "keys.log"
        logged = keys.read_text().splitlines() if keys.exists() else []
        assert [line for line in logged if not line.startswith("#")] == []

    @pytest.mark.parametrize("endpoint", ["localhost:4566", "127.0.0.1", "//localhost", "ftp://localhost"])
    async def test_an_endpoint_without_a_usable_scheme_is_one_error(self, monkeypatch, endpoint):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(ConfigurationError, match="cannot be used"):
            await opened("awssm://eu-central-1/fm")


class TestOpenBao:
    URL = "openbao://127.0.0.1:1/secret/fm?tls=off"

    @pytest.mark.parametrize("variable", ["BAO_TOKEN", "VAULT_TOKEN"])
    @pytest.mark.parametrize("around", ["{}\n", "{}\r\n", " {} ", "\n{}"])
    def test_white_space_around_the_token_is_taken_off(self, monkeypatch, variable, around):
        """A Kubernetes secret made with --from-file ends in a newline."""
        monkeypatch.setenv(variable, around.format("an-invented-token"))
        assert openbao_address(self.URL).token().text == "an-invented-token"

    @pytest.mark.parametrize("token", ["planted token", "planted\ntoken", "pl\u00e4nted", "planted\x7f"])
    def test_a_token_that_no_header_can_carry_is_refused_unseen(self, monkeypatch, exposed, token):
        monkeypatch.setenv("BAO_TOKEN", token)
        with pytest.raises(ConfigurationError, match="no header can carry") as refused:
            openbao_address(self.URL).token()
        assert token not in exposed(refused.value)

    @pytest.mark.parametrize("variable", ["BAO_TOKEN", "VAULT_TOKEN"])
    @pytest.mark.parametrize("home", ["", ".", "relative"])
    def test_no_token_is_read_from_the_working_directory(self, monkeypatch, tmp_path, variable, home):
        """An empty variable counts as unset."""
        for folder in (tmp_path, tmp_path / "relative"):
            folder.mkdir(exist_ok=True)
            (folder / ".vault-token").write_text("planted")
            (folder / ".vault-token").chmod(0o600)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", home)
        monkeypatch.setattr("os.getuid", lambda: 54321)
        monkeypatch.setenv(variable, "")
        with pytest.raises(ConfigurationError, match="there is no token"):
            openbao_address(self.URL).token()


@pytest.mark.parametrize(
    ("variable", "query", "expected"),
    [
        (None, "", "sslmode=verify-full"),
        ("", "", "sslmode=verify-full"),
        ("", "?sslmode=", "sslmode=verify-full"),
        ("", "?sslmode=require", "sslmode=require"),
    ],
)
def test_an_empty_sslmode_counts_as_unset(monkeypatch, variable, query, expected):
    """The driver's own default would accept plaintext."""
    if variable is not None:
        monkeypatch.setenv("PGSSLMODE", variable)
    assert expected in postgres_address(f"postgresql://user@db.example/app{query}").dsn
