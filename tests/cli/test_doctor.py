"""``flowmate doctor``: every failure it knows is provoked for real, and it says how to fix it."""

import datetime as dt
import resource
import sqlite3
import ssl
import threading
import time
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest
import trustme
from anyio.from_thread import start_blocking_portal

from flowmate_async.cli.doctor.upstream import Options
from flowmate_async.cli.doctor_command import run_checks
from flowmate_async.cli.loop import run_async
from flowmate_async.cli.options import Connection, StoreFlags
from flowmate_async.sandbox import Faults, Sandbox, SandboxOptions, faults

from .conftest import answering, connect, http, twin_thread

USAGE, UPSTREAM, SOME_FAILED = 2, 3, 1

LISTING = b'{"data":[{"_id":"63f5a1b2c3d4e5f6a7b8c9d0","type":"SIMPLE","name":"n","owners":[]}]}'


@pytest.fixture
def examined(flowmate):
    """Run the doctor; its exit code and its findings by check."""

    def examine(*flags):
        ended = flowmate("doctor", "--json", "--probe", "0", *flags)
        report = msgspec.json.decode(ended.out)
        assert report["ok"] == (not [one for one in report["checks"] if one["status"] == "error"])
        return ended.code, {one["check"]: one for one in report["checks"]}

    return examine


@contextmanager
def twin_here(**options):
    """A sandbox in this process, so that its world, its token and its TLS can be chosen."""
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())
        yield stack.enter_context(
            portal.wrap_async_context_manager(Sandbox(SandboxOptions(**({"users": 3, "seed": 7} | options))))
        )


class TestHealthy:
    def test_nothing_is_wrong_and_it_ends_with_0(self, examined, connected):
        code, found = examined()
        assert code == 0
        assert {one["status"] for one in found.values()} <= {"ok", "skipped"}
        expected = {"configuration", "token source", "connection", "api", "clock", "token", "permission"}
        assert expected | {"pages", "rate", "store"} <= set(found)
        assert "12 of them active" in found["token"]["message"]

    def test_it_asks_for_little_and_refreshes_nothing(self, examined, connected):
        before, asked = connected.stats(), connected.total()
        examined()
        after = connected.stats()
        assert connected.total() - asked < 20
        assert after["refreshes"] == before["refreshes"]

    def test_a_store_that_is_not_there_is_not_made(self, examined, connected, home):
        _, found = examined()
        assert "the first sync makes it" in found["store"]["message"]
        assert not (home / "credentials.db").exists()

    def test_a_store_in_use_is_opened_and_the_last_run_named(self, examined, flowmate, connected):
        flowmate("sync", "--all-users")
        code, found = examined()
        assert code == 0
        assert "the last run ended 0.0 h ago" in found["store"]["message"]
        assert found["store lock"]["status"] == "ok"

    def test_people_get_a_line_a_check(self, flowmate, connected):
        lines = flowmate("doctor", "--probe", "10").out.splitlines()
        assert all(line.split()[0] in ("ok", "skipped") for line in lines)
        assert any("10 requests" in line and "none throttled" in line for line in lines)

    def test_no_credential_shows(self, flowmate, connected):
        flowmate("sync", "--all-users")
        ended = flowmate("doctor", "--json")
        values = [part for _, value in connected.truth().values() for part in value.values()]
        needles = [part for part in values if isinstance(part, str) and len(part) >= 10]
        assert not [needle for needle in [*needles, connected.admin_token] if needle in ended.out + ended.err]


class TestConfiguration:
    def test_a_plain_http_base_url_elsewhere(self, examined, connected):
        code, found = examined("--base-url", "http://flowmate.example")
        assert (code, found["configuration"]["status"]) == (USAGE, "error")
        assert "https" in found["configuration"]["fix"]
        assert found["connection"]["status"] == "skipped"

    def test_no_token(self, examined, connected, monkeypatch):
        monkeypatch.delenv("FLOWMATE_ADMIN_TOKEN")
        code, found = examined()
        assert (code, found["token source"]["status"]) == (USAGE, "error")
        assert "FLOWMATE_ADMIN_TOKEN" in found["token source"]["fix"]

    def test_a_token_file_that_others_can_read(self, examined, connected, home):
        (home / "token").write_text("hush-hush-hush")
        (home / "token").chmod(0o644)
        code, found = examined("--admin-token-file", "token")
        assert (code, found["token file"]["status"]) == (USAGE, "error")
        assert "chmod 600" in found["token file"]["fix"]

    def test_two_tokens_are_one_too_many(self, examined, connected, home):
        (home / "token").write_text(connected.admin_token)
        (home / "token").chmod(0o600)
        code, found = examined("--admin-token-file", "token")
        assert (code, found["token file"]["status"]) == (0, "warning")
        assert examined("--admin-token-file", "token", "--strict")[0] == SOME_FAILED

    def test_a_misspelt_variable(self, examined, connected, monkeypatch):
        monkeypatch.setenv("FLOWMATE_BASEURL", "https://flowmate.example")
        code, found = examined()
        assert (code, found["variables"]["status"]) == (0, "warning")
        assert "FLOWMATE_BASE_URL" in found["variables"]["fix"]

    def test_too_few_descriptors(self, examined, connected):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
        try:
            _, found = examined("--concurrency", "500")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert found["descriptors"]["status"] == "warning"
        assert "ulimit -n 1024" in found["descriptors"]["fix"]


class TestNetwork:
    def test_nobody_listens(self, examined, connected, monkeypatch):
        with answering(b"") as url:
            pass
        monkeypatch.setenv("FLOWMATE_BASE_URL", url)
        code, found = examined()
        assert (code, found["connection"]["status"]) == (UPSTREAM, "error")
        assert "refused" in found["connection"]["message"]
        assert found["api"]["status"] == "skipped"

    def test_a_name_that_does_not_exist(self, examined, connected, monkeypatch):
        monkeypatch.setenv("FLOWMATE_BASE_URL", "https://flowmate.invalid")
        code, found = examined()
        assert (code, found["address"]["status"]) == (UPSTREAM, "error")
        assert "flowmate.invalid" in found["address"]["message"]

    @pytest.mark.parametrize("name", ["unknown authority", "another host", "expired"])
    def test_a_certificate_that_cannot_be_trusted(self, examined, connected, monkeypatch, home, name):
        authority, past = trustme.CA(), dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        issued = {
            "unknown authority": lambda: trustme.CA().issue_cert("127.0.0.1"),
            "another host": lambda: authority.issue_cert("elsewhere.example"),
            "expired": lambda: authority.issue_cert("127.0.0.1", not_before=past, not_after=past),
        }[name]()
        with self.tls_twin(monkeypatch, home, authority, issued):
            code, found = examined()
        assert (code, found["tls"]["status"]) == (UPSTREAM, "error")
        assert "--ca-file" in found["tls"]["fix"]
        assert found["api"]["status"] == "skipped"

    def test_a_trusted_certificate_and_one_that_ends_soon(self, examined, connected, monkeypatch, home):
        authority = trustme.CA()
        with self.tls_twin(monkeypatch, home, authority, authority.issue_cert("127.0.0.1")):
            code, found = examined()
        assert (code, found["tls"]["status"], found["token"]["status"]) == (0, "ok", "ok")
        soon = dt.datetime.now(dt.UTC) + dt.timedelta(days=3)
        with self.tls_twin(monkeypatch, home, authority, authority.issue_cert("127.0.0.1", not_after=soon)):
            code, found = examined()
        assert (code, found["tls"]["status"]) == (0, "warning")
        assert "3 days" in found["tls"]["message"]

    @contextmanager
    def tls_twin(self, monkeypatch, home, authority, issued):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued.configure_cert(context)
        authority.cert_pem.write_to_path(home / "ca.pem")
        with twin_here(ssl_context=context) as twin:
            monkeypatch.setenv("FLOWMATE_BASE_URL", twin.url)
            monkeypatch.setenv("FLOWMATE_ADMIN_TOKEN", twin.admin_token)
            monkeypatch.setenv("FLOWMATE_CA_FILE", str(home / "ca.pem"))
            yield


class TestUpstream:
    @pytest.mark.parametrize(
        ("raw", "says"),
        [
            (http(b"<html>log in</html>", kind="text/html"), "200 and text/html"),
            (http(b"", status="302 Found"), "302"),
            (http(b'{"message":""}', status="503 Service Unavailable"), "answers 503"),
            (http(b'{"message":""}', status="429 Too Many Requests"), "FlowMate answers 429"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "malformed|broken"),
        ],
        ids=["a web page", "a redirect", "failing", "throttled", "not HTTP"],
    )
    def test_something_else_than_flowmate_answers(self, examined, connected, monkeypatch, raw, says):
        with answering(raw) as url:
            monkeypatch.setenv("FLOWMATE_BASE_URL", url)
            code, found = examined()
        assert (code, found["api"]["status"]) == (UPSTREAM, "error")
        assert any(part in found["api"]["message"] for part in says.split("|"))
        assert found["token"]["status"] == "skipped"

    @pytest.mark.parametrize(
        ("ahead", "status", "effect"), [(3600, "error", "early"), (-20, "warning", "late")]
    )
    def test_a_clock_that_is_off(self, connected, ahead, status, effect):
        async def clock():
            options = Options(username=None, probe=0, wall=lambda: time.time() + ahead)
            connection = Connection(base_url=connected.url, rate=0)
            async for finding in run_checks(connection, StoreFlags(), options):
                if finding.check == "clock":
                    return finding
            return None

        found = run_async(clock)
        assert (found.status, found.exit_code) == (status, USAGE if status == "error" else 0)
        assert effect in found.message
        assert "NTP" in found.fix

    def test_a_rejected_token(self, examined, connected, monkeypatch):
        monkeypatch.setenv("FLOWMATE_ADMIN_TOKEN", "not-the-admin-token-at-all")
        code, found = examined()
        assert (code, found["token"]["status"]) == (UPSTREAM, "error")
        assert "admin token was rejected" in found["token"]["message"]
        assert found["permission"]["status"] == "skipped"

    def test_a_token_that_is_no_admins(self, examined, flowmate, connected, monkeypatch):
        name = flowmate("users").out.splitlines()[0]
        answer = msgspec.json.decode(connected.ask("/impersonate", {"username": name}))
        monkeypatch.setenv("FLOWMATE_ADMIN_TOKEN", answer["token"])
        code, found = examined()
        assert (code, found["token"]["status"]) == (UPSTREAM, "error")

    def test_masked_values(self, examined, flowmate, home, monkeypatch):
        with twin_thread(users=6, raw_read=False) as twin:
            connect(twin, monkeypatch, home)
            code, found = examined()
        assert (code, found["permission"]["status"]) == (UPSTREAM, "error")
        assert "5 of 5 users" in found["permission"]["message"]
        assert "secrets.secret.readRaw" in found["permission"]["fix"]

    @pytest.mark.parametrize("masked", [range(1), range(4), range(61, 65), range(16, 64)], ids=str)
    def test_some_masked_users_are_counted_and_no_error(self, examined, flowmate, home, monkeypatch, masked):
        with twin_here(users=65) as sandbox:
            for number in masked:
                sandbox.world.user(f"user-{number:06d}@tenant.example").permissions = ()
            connect(sandbox, monkeypatch, home)
            code, found = examined()
            stats = sandbox.stats()
        expected = len([number for number in range(5) if round(number * 64 / 4) in masked])
        assert (code, found["permission"]["status"]) == (0, "warning")
        assert f"{expected} of 5 users" in found["permission"]["message"]
        assert "secrets.secret.readRaw" in found["permission"]["fix"]
        assert not stats.refreshes
        assert found["pages"]["status"] == "ok"

    def test_masked_users_beside_some_without_secrets_are_no_error(self, examined, home, monkeypatch):
        with twin_here(users=5) as sandbox:
            for number in range(5):
                name = f"user-{number:06d}@tenant.example"
                sandbox.world.user(name).permissions = ()
                for secret in sandbox.world.secrets_of(name) if number == 4 else ():
                    sandbox.world.remove_secret(secret.id)
            connect(sandbox, monkeypatch, home)
            code, found = examined()
        assert (code, found["permission"]["status"]) == (0, "warning")
        assert "4 of 5 users" in found["permission"]["message"]

    def test_a_user_that_cannot_be_read_is_counted_and_no_error(self, examined, home, monkeypatch):
        """Here one that is deleted when its secrets are listed."""
        gone = Faults(rules=(faults.UserDeleted(at_most=1, skip=1, routes=("GET /secrets/",)),))
        with twin_here(users=5, faults=gone, create_users_on_impersonate=False) as sandbox:
            connect(sandbox, monkeypatch, home)
            code, found = examined()
        assert (code, found["permission"]["status"]) == (0, "warning")
        assert "1 of 5 users" in found["permission"]["message"]
        assert "no such user" in found["permission"]["message"]
        assert found["pages"]["status"] == "ok"

    def test_a_masked_user_that_is_named_is_an_error(self, examined, home, monkeypatch):
        with twin_here() as sandbox:
            name = "user-000001@tenant.example"
            sandbox.world.user(name).permissions = ()
            connect(sandbox, monkeypatch, home)
            code, found = examined("--user", name)
        assert (code, found["permission"]["status"]) == (UPSTREAM, "error")

    def test_a_tenant_without_users(self, examined, home, flowmate, monkeypatch):
        with twin_thread(users=0) as twin:
            connect(twin, monkeypatch, home)
            code, found = examined()
        assert (code, found["token"]["status"]) == (0, "warning")
        assert "right tenant" in found["token"]["fix"]

    def test_a_user_that_does_not_exist(self, examined, connected):
        code, found = examined("--user", "nobody-of-that-name")
        assert code == SOME_FAILED
        assert "no such user" in found["user"]["message"]

    def test_a_rate_above_upstreams(self, flowmate, home, monkeypatch):
        with twin_thread(users=4, rate=10, burst=5) as twin:
            connect(twin, monkeypatch, home)
            ended = flowmate("doctor", "--json", "--probe", "20", "--rate", "200")
        found = {one["check"]: one for one in msgspec.json.decode(ended.out)["checks"]}
        assert (ended.code, found["rate"]["status"]) == (0, "warning")
        assert "throttled" in found["rate"]["message"]
        assert "Lower --rate" in found["rate"]["fix"]

    def test_a_concurrency_too_low_for_the_rate(self, flowmate, home, monkeypatch):
        with twin_thread(users=4, latency_seconds=0.05) as twin:
            connect(twin, monkeypatch, home)
            ended = flowmate("doctor", "--json", "--probe", "20", "--rate", "500", "--concurrency", "4")
        found = {one["check"]: one for one in msgspec.json.decode(ended.out)["checks"]}
        assert found["rate"]["status"] == "warning"
        assert "Raise --concurrency" in found["rate"]["fix"]


class TestStore:
    @pytest.fixture(autouse=True)
    def _synced(self, flowmate, connected):
        assert flowmate("sync", "--all-users").code == 0

    def test_the_wrong_key(self, examined, monkeypatch):
        monkeypatch.setenv("FLOWMATE_STORE_KEY", "77" * 32)
        code, found = examined()
        assert (code, found["store"]["status"]) == (USAGE, "error")
        assert "key" in found["store"]["message"]

    def test_no_key(self, examined, monkeypatch):
        monkeypatch.delenv("FLOWMATE_STORE_KEY")
        code, found = examined()
        assert (code, found["store"]["status"]) == (USAGE, "error")

    def test_another_upstreams(self, examined, flowmate, home, monkeypatch):
        with twin_thread(users=2, seed=1) as other:
            connect(other, monkeypatch, home)
            code, found = examined()
        assert (code, found["store"]["status"]) == (USAGE, "error")
        assert "one store for each upstream" in found["store"]["fix"]

    def test_a_sync_that_is_running(self, examined, home):
        holder = sqlite3.connect(home / "credentials.db.lock", isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        try:
            code, found = examined()
        finally:
            holder.close()
        assert (code, found["store lock"]["status"]) == (0, "warning")

    def test_a_folder_that_is_not_there(self, examined, home, monkeypatch):
        monkeypatch.setenv("FLOWMATE_STORE", f"sqlite:///{home / 'nowhere' / 'credentials.db'}")
        code, found = examined()
        assert (code, found["store"]["status"]) == (USAGE, "error")

    def test_a_url_with_a_password_is_refused_and_not_repeated(self, flowmate, monkeypatch):
        monkeypatch.setenv("FLOWMATE_STORE", "postgresql://me:hush-hush@db.example/x")
        ended = flowmate("doctor", "--json", "--probe", "0")
        assert ended.code == USAGE
        assert "hush-hush" not in ended.out + ended.err


@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["for people", "for programs"])
@pytest.mark.parametrize(
    ("kind", "said"),
    [("text/\x9b2J\u202ehtml", "503"), ("text/\x1b[2Jhtml", "broken or not HTTP")],
    ids=["read", "refused"],
)
def test_what_upstream_says_cannot_command_the_terminal(flowmate, connected, monkeypatch, flags, kind, said):
    """A control character in ASCII is not even HTTP; others are escaped."""
    with answering(http(b"{}", status="503 x", kind=kind)) as url:
        monkeypatch.setenv("FLOWMATE_BASE_URL", url)
        out = flowmate("doctor", *flags).out
    assert said in out
    assert not {"\x1b", "\x9b", "\u202e"} & set(out)


def test_a_listing_without_a_total_cannot_be_proven_complete(examined, connected, monkeypatch):
    """A scripted FlowMate, since the sandbox always counts, as the observed one does."""
    with scripted_flowmate() as url:
        monkeypatch.setenv("FLOWMATE_BASE_URL", url)
        code, found = examined()
    assert (code, found["pages"]["status"]) == (0, "warning"), found
    assert "proven complete" in found["pages"]["message"]


@contextmanager
def scripted_flowmate():
    """As documented, without ``meta``: listings are bare of totals."""
    user = {"_id": "1", "username": "abc123", "status": "ACTIVE", "tenant": "t", "roles": []}
    value = {"username": "u", "passphrase": "hush"}
    secret = {"data": {**msgspec.json.decode(LISTING)["data"][0], "value": value}}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, status, body):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(200, b'{"token":"user-token","id":"1"}')

        def do_GET(self):
            if "Authorization" not in self.headers:
                self.reply(401, b'{"message":"Missing authorization header."}')
            elif self.path.startswith("/users/"):
                self.reply(200, msgspec.json.encode([user]))
            else:
                self.reply(200, LISTING if "page" in self.path else msgspec.json.encode(secret))

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
