"""Connections to Redis and to the broker: verified TLS to other machines; a bad URL is not shown."""

import socket
import ssl
import subprocess

import anyio
import pytest
import trustme

from flowmate_async import ConfigurationError, StoreKey
from flowmate_async.distributed.connection import RedisUrl, connect, redis_errors, url_from
from flowmate_async.distributed.coordination import RedisCoordination, SharingPolicy
from flowmate_async.distributed.keyspace import Keyspace
from flowmate_async.distributed.tasks import Queueing, make_app
from flowmate_async.distributed.urls import NamedUrl, SecretUrl

KEY = StoreKey.parse("5a" * 32)
NAMES = Keyspace(KEY, namespace="n", base_url="https://example.invalid")


@pytest.fixture
def tls_redis(redis_program, tmp_path):
    """The URL of a Redis that speaks TLS only, and the file of its certificate authority."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "ca.pem").chmod(0o644)
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    files = ("cert", "key", "ca-cert")
    names = {"cert": "server.pem", "key": "server.pem", "ca-cert": "ca.pem"}
    options = [text for name in files for text in (f"--tls-{name}-file", str(tmp_path / names[name]))]
    command = [redis_program, "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--save", ""]
    server = subprocess.Popen(
        [*command, "--tls-auth-clients", "no", *options], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        while "eady to accept" not in (line := server.stdout.readline()):
            assert line, "redis-server did not start"
        yield f"rediss://127.0.0.1:{port}/0", tmp_path / "ca.pem"
    finally:
        server.kill()
        server.communicate()


PRIVATE = [
    "rediss://app:password@redis.example:6379/0",
    "rediss://app:password@192.0.2.7/0?ssl_cert_reqs=required&ssl_check_hostname=true",
    "redis://app:password@127.0.0.1:6379/0",
    "redis://app:password@localhost/0",
    "redis://app:pass%40word%2F@[::1]:6379/0",
    "redis:///0",
    "unix://app@/run/redis.sock",
]
PLAINTEXT = [
    "redis://app:planted@192.0.2.7:6379/0",
    "redis://app:planted@redis:6379/0",
    "redis://app:planted@localhost.example/0",
    "redis://app:planted@127.0.0.1.example/0",
]
WEAKENED = [
    f"rediss://app:planted@192.0.2.7:6379/0?{option}"
    for option in (
        "ssl_cert_reqs=none",
        "ssl_cert_reqs=NONE",
        "ssl_cert_reqs=CERT_NONE",
        "ssl_cert_reqs=optional",
        "ssl_cert_reqs=",
        "ssl_check_hostname=false",
        "ssl_check_hostname=0",
        "ssl_exclude_verify_flags=VERIFY_X509_STRICT",
        "ssl_ciphers=NULL",
        "db=1&ssl_cert_reqs=required&ssl_cert_reqs=none",
        "credential_provider=planted.module.Provider",
    )
]
UNQUOTED = [
    "redis://:abc@planted/def@127.0.0.1:6399/0",
    "redis://:pass@planted@127.0.0.1:6399/0",
    "redis://app:pl/planted@127.0.0.1:6399/0",
    "redis://app:pl?planted@127.0.0.1:6399/0",
    "redis://app:pl#planted@127.0.0.1:6399/0",
    "redis://app:pl;planted@127.0.0.1:6399/0",
    "redis://app:pl[planted@127.0.0.1:6399/0",
    "redis://app@127.0.0.1:planted/0",
]


@pytest.mark.parametrize("url", PRIVATE)
def test_a_private_connection_is_accepted(url):
    assert connect(RedisUrl(url))
    SecretUrl(url).check("the broker", allow_plaintext=False)


@pytest.mark.parametrize("url", PLAINTEXT + WEAKENED + UNQUOTED)
def test_any_other_connection_is_refused_without_showing_the_url(url, exposed):
    for refused in (
        lambda: RedisUrl(url),
        lambda: url_from({"FLOWMATE_REDIS_URL": url}),
        lambda: RedisCoordination(url, key=KEY),
        lambda: make_app(NamedUrl("FLOWMATE_BROKER_URL", url, "").read(), NAMES, Queueing()),
    ):
        with pytest.raises(ConfigurationError, match="the URL of") as refusal:
            refused()
        assert "planted" not in str(refusal.value)
        assert "planted" not in exposed(refusal.value)


@pytest.mark.parametrize("url", PLAINTEXT)
def test_plaintext_to_another_machine_is_accepted_when_allowed(url):
    assert RedisCoordination(url, key=KEY, policy=SharingPolicy(allow_plaintext=True))
    assert make_app(SecretUrl(url), NAMES, Queueing(allow_plaintext=True))


@pytest.mark.parametrize("url", WEAKENED + UNQUOTED)
def test_allowing_plaintext_allows_nothing_else(url):
    with pytest.raises(ConfigurationError):
        RedisUrl(url, allow_plaintext=True)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("rediss://app:password@redis.example:6379/3?ssl_ca_certs=/ca.pem", "rediss://redis.example:6379"),
        ("amqp://app:password@[::1]//", "amqp://[::1]"),
        ("amqps://a:b@one:1;amqps://c:d@two:2", "amqps://one:1;amqps://two:2"),
    ],
)
def test_the_place_of_a_url_has_no_user_and_no_password(url, place):
    assert SecretUrl(url).place == place


@pytest.mark.parametrize(
    "several", ["amqps://a:b@one;amqp://a:b@192.0.2.7", "sentinel://127.0.0.1;sentinel://h:1"]
)
def test_every_one_of_several_brokers_must_be_private(several):
    with pytest.raises(ConfigurationError, match="in clear"):
        SecretUrl(several).check("the broker", allow_plaintext=False)


def test_amqps_verifies_the_certificate():
    app = make_app(SecretUrl("amqps://a:b@broker.example//?ssl_ca_certs=/etc/ca.pem"), NAMES, Queueing())
    assert app.conf.broker_use_ssl == {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": "/etc/ca.pem"}


def test_celery_reads_no_settings_from_the_environment(monkeypatch):
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
        monkeypatch.setenv(name, "redis://192.0.2.7/9")
    monkeypatch.setenv("CELERY_CONFIG_MODULE", "no_such_module")
    monkeypatch.setenv("CELERY_LOADER", "no_such_module:Loader")
    app = make_app(SecretUrl("redis://127.0.0.1:1/0"), NAMES, Queueing())
    brokers = (app.conf.broker_url, app.conf.broker_read_url, app.conf.broker_write_url)
    assert brokers == ("redis://127.0.0.1:1/0",) * 3


def test_redis_over_tls_is_verified_and_writes_no_key_log(tls_redis, tmp_path, monkeypatch):
    url, ca_file = tls_redis
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))

    async def ping(url):
        client = connect(RedisUrl(url))
        try:
            return await client.ping()
        finally:
            await client.aclose()

    assert anyio.run(ping, f"{url}?ssl_ca_certs={ca_file}")
    with pytest.raises(redis_errors(), match="certificate verify failed"):
        anyio.run(ping, url)
    assert not (tmp_path / "keys.log").exists()
