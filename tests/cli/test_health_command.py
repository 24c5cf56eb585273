"""``flowmate health`` and ``flowmate sync --notify``: from a broken credential to a message about it."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flowmate_async.health.webhook import SigningKey, verify

from .conftest import connect, twin_thread

SOME_FAILED, USAGE = 1, 2
KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
REVOKED = {
    "type": "OA2_AUTHORIZATION_CODE",
    "owners": ["customer-a"],
    "fault": "http_error",
    "value": {
        "authClientId": "the-client",
        "accessToken": "access-of-a",
        "refreshToken": "refresh-of-a",
        "scope": "",
        "expires": "2026-01-01T00:00:00.000Z",
    },
}


@pytest.fixture(scope="module")
def own_twin():
    """A sandbox that these tests change."""
    with twin_thread(users=3) as running:
        yield running


@pytest.fixture
def connected(own_twin, monkeypatch, home):
    """That sandbox, named by the environment, and a store with its key."""
    connect(own_twin, monkeypatch, home)
    return own_twin


@pytest.fixture
def revoked(connected):
    """A user of the sandbox whose grant was revoked; the secret's id."""
    connected.ask("/_sandbox/users", {"username": "customer-a"}, method="POST")
    yield json.loads(connected.ask("/_sandbox/secrets", REVOKED, method="POST"))["id"]
    connected.ask("/_sandbox/users/customer-a", method="DELETE")


@pytest.fixture
def receiver(monkeypatch):
    """A receiver that verifies signatures; what it took."""
    taken = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            good = verify(SigningKey.parse(KEY), headers, body, now=float(headers["webhook-timestamp"]))
            taken.append(json.loads(body))
            self.send_response(204 if good else 401)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("FLOWMATE_NOTIFY", f"http://127.0.0.1:{server.server_port}/hook")
    monkeypatch.setenv("FLOWMATE_NOTIFY_KEY", KEY)
    yield taken
    server.shutdown()
    server.server_close()


def lines(ended):
    return [json.loads(line) for line in ended.out.splitlines()]


def test_a_broken_credential_is_shown_with_what_to_do(flowmate, connected, revoked):
    synced = flowmate("sync", "customer-a")
    assert synced.code == SOME_FAILED
    assert synced.out.count("; health: broken 1") == 1
    ended = flowmate("health", "customer-a")
    assert ended.code == SOME_FAILED
    heading, line = ended.out.splitlines()
    assert heading == "OAuth client the-client: 1 broken"
    assert line.startswith("  broken ")
    assert f"customer-a  {revoked}  OA2_AUTHORIZATION_CODE  refused: Ask the user to reconnect." in line
    [shown] = lines(flowmate("health", "--broken", "--json"))
    assert (shown["state"], shown["reason"], shown["auth_client_id"]) == ("broken", "refused", "the-client")
    assert shown["since"].endswith("Z")


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        (["--broken"], 1),
        (["--state", "broken", "--state", "unreadable"], 1),
        (["--state", "unreadable"], 0),
        (["--client", "the-client"], 1),
        (["--client", "another"], 0),
        (["--type", "API_KEY"], 0),
        (["--since", "1h"], 1),
        (["--since", "2100-01-01"], 0),
        (["nobody"], 0),
    ],
)
def test_what_is_shown_can_be_narrowed(flowmate, connected, revoked, flags, shown):
    flowmate("sync", "customer-a")
    ended = flowmate("health", "--json", *flags)
    assert len(lines(ended)) == shown
    assert ended.code == (SOME_FAILED if shown else 0)


def test_a_time_that_is_none_is_refused(flowmate, connected):
    flowmate("sync", "--all-users")
    ended = flowmate("health", "--since", "yesterday")
    assert ended.code == USAGE
    assert "36h" in ended.err


def test_live_lists_and_fetches_nothing(flowmate, connected, revoked):
    before = connected.stats()["requests"]
    ended = flowmate("health", "--live", "--json", "customer-a", "--store", "")
    requests = connected.stats()["requests"]
    assert requests.get("GET /secrets/{id}") == before.get("GET /secrets/{id}")
    [shown] = lines(ended)
    assert (shown["state"], shown["reason"]) == ("unverified", "renewal_due")
    assert ended.code == 0, "a listing alone never shows that something is broken"
    flowmate("sync", "customer-a")
    [shown] = lines(flowmate("health", "--live", "--json", "customer-a"))
    assert shown["state"] == "broken", "what the sync has found counts more"


def test_a_webhook_arrives_once(flowmate, connected, revoked, receiver):
    ended = flowmate("sync", "customer-a")
    assert "Delivered 1 notice" in ended.err
    flowmate("sync", "customer-a")
    [message] = receiver
    assert message["type"] == "credential.broken"
    assert message["data"]["username"] == "customer-a"
    assert message["data"]["secret_id"] == revoked
    assert message["data"]["action"] == "Ask the user to reconnect."
    assert "access-of-a" not in json.dumps(message)


def test_what_nobody_takes_waits_for_the_next_run(flowmate, connected, revoked, receiver, monkeypatch):
    monkeypatch.setenv("FLOWMATE_NOTIFY_KEY", "whsec_" + "B" * 44)
    ended = flowmate("sync", "customer-a")
    assert "1 notice waits for the next run: the receiver answered 401" in ended.err
    monkeypatch.setenv("FLOWMATE_NOTIFY_KEY", KEY)
    assert "Delivered 1 notice" in flowmate("sync", "customer-a").err


def test_a_program_takes_messages(flowmate, connected, revoked, tmp_path):
    program = tmp_path / "take.py"
    taken = tmp_path / "taken"
    program.write_text(f"import sys, pathlib; pathlib.Path({str(taken)!r}).write_text(sys.stdin.read())")
    command = f"{sys.executable} {program}"
    ended = flowmate("sync", "customer-a", "--notify-command", command, "--notify-digest")
    assert "Delivered 1 notice" in ended.err
    message = json.loads(taken.read_text())
    assert message["type"] == "credentials.changed"
    assert [one["type"] for one in message["data"]["changes"]] == ["credential.broken"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--notify", "https://app.example/hook"], "have no key"),
        (["--notify", "http://app.example/hook?token=SECRET"], "cannot be used"),
        (["--notify", "https://app.example/hook", "--notify-command", "true"], "cannot be combined"),
        (["--notify-command", "'"], "not a command"),
    ],
)
def test_notices_that_cannot_work_are_refused_at_once(flowmate, connected, monkeypatch, flags, said):
    if "no key" not in said:
        monkeypatch.setenv("FLOWMATE_NOTIFY_KEY", KEY)
    ended = flowmate("sync", "--all-users", *flags)
    assert ended.code == USAGE
    assert said in ended.err
    assert "SECRET" not in ended.err
