"""`flowmate sandbox add-user` and the like, and a second night that is rehearsed with them alone."""

import io
import json
import re
from collections import Counter

import pytest

from flowmate_async.cli.app import app

from .conftest import answering, connect, http, twin_process, twin_thread

ALICE = "user-000000@tenant.example"
BOB = "user-000001@tenant.example"


@pytest.fixture
def sandbox(monkeypatch, home):
    """A sandbox for one test, named by the environment."""
    with twin_thread(users=6, seed=3, masked_share=0.2) as running:
        connect(running, monkeypatch, home)
        yield running


@pytest.fixture
def control(flowmate):
    """Run `flowmate sandbox …`, which must succeed, and return what it prints."""

    def command(*arguments):
        ended = flowmate("sandbox", *arguments)
        assert (ended.code, ended.err) == (0, ""), ended
        return ended.out.strip()

    return command


def snake(name):
    """Return upstream's name as commands print it."""
    return re.sub("(?<!^)(?=[A-Z])", "_", name).lower()


def stored(flowmate):
    """Return (user, secret id) -> value of everything in the store."""
    found = {}
    for line in flowmate("store", "list", "--json").out.splitlines():
        item = json.loads(line)
        if item["removed_at"] is None:
            shown = json.loads(flowmate("store", "get", item["username"], item["secret_id"], "--reveal").out)
            value = shown["value"]
            found[item["username"], item["secret_id"]] = {snake(name): part for name, part in value.items()}
    return found


def upstream(control):
    """Return (user, secret id) -> value of everything in the sandbox."""
    rows = map(json.loads, control("truth", "--reveal").splitlines())
    return {
        (row["username"], row["secret_id"]): {snake(k): v for k, v in row["value"].items() if v is not None}
        for row in rows
    }


def test_a_second_night_is_rehearsed_with_commands_alone(sandbox, flowmate, control):
    """Users and secrets come, change and go between two syncs; the store ends as upstream is."""
    assert flowmate("sync", "--all-users").code == 1, "one of six users is masked"
    masked = {"user-000004@tenant.example"}
    first = stored(flowmate)
    assert first.keys() == {key for key in upstream(control) if key[0] not in masked}

    control("add-user", "customer-a")
    added = control("add-secret", "API_KEY", "customer-a", BOB, "--name", "shared")
    changed = control("add-secret", "SIMPLE", BOB)
    removed = next(secret for name, secret in first if name == ALICE)
    control("remove-secret", removed)
    control("remove-user", "user-000002@tenant.example")
    control("set-permission", next(iter(masked)), "--raw-read")
    control("set-user", "user-000003@tenant.example", "--disabled")
    control("configure", "--faults", "ingress_page=1 page=unavailable at_most=2; token_revoked=1 at_most=1")
    control("stats", "--reset")

    night = ("sync", "--all-users", "--full", "--removed", "delete", "--max-removed-share", "0.9")
    assert flowmate(*night).code == 0
    assert json.loads(control("stats"))["faults"] == {"ingress_page": 2, "token_revoked": 1}
    gone = {"user-000002@tenant.example", "user-000003@tenant.example"}
    second, truth = stored(flowmate), upstream(control)
    assert {key: second[key] for key in truth} == truth
    assert {name for name, _ in second.keys() - truth.keys()} <= gone, "their users are not active any more"
    assert {("customer-a", added), (BOB, added), (BOB, changed)} < second.keys()
    assert (ALICE, removed) not in second

    before = second[BOB, changed]
    control("rotate-secret", changed)
    assert flowmate("sync", "--all-users", "--full").code == 0
    assert stored(flowmate)[BOB, changed]["passphrase"] != before["passphrase"]


def test_flags_make_an_unusual_tenant(flowmate, control, monkeypatch, home):
    """Shared secrets, providers without expires_in, and ciphertexts that look like a mask."""
    shared = ("--shared-secrets", "2", "--owners-per-shared-secret", "3")
    with twin_process(
        "--users", "4", *shared, "--no-expires-in-share", "1", "--looks-masked-share", "1"
    ) as it:
        connect(it, monkeypatch, home)
        rows = [json.loads(line) for line in control("truth").splitlines()]
        owners = Counter(row["secret_id"] for row in rows)
        assert sorted(owners.values())[-3:] == [1, 3, 3]
        oauth = next(row["secret_id"] for row in rows if row["type"] == "OA2_AUTHORIZATION_CODE")
        shown = json.loads(it.ask(f"/_sandbox/secrets/{oauth}"))
        assert (shown["fault"], shown["looks_masked"]) == ("no_expires_in", True)


@pytest.mark.parametrize("flags", [("--masked-share", "2"), ("--shared-secrets", "-1")])
def test_an_impossible_tenant_is_refused(flowmate, flags):
    """Before anything listens."""
    ended = flowmate("sandbox", *flags)
    assert (ended.code, ended.out) == (2, "")
    assert flags[0].removeprefix("--").replace("-", "_") in ended.complaint


def test_a_credential_comes_from_a_file_or_standard_input(sandbox, flowmate, control, home, monkeypatch):
    """Never from a flag; fields that are not in it stay."""
    value = home / "value.json"
    value.write_text('{"key": "from-a-file-0123456789", "headerName": "x-key"}')
    secret = control("add-secret", "API_KEY", ALICE, "--id", "A1" * 12, "--value-file", "value.json")
    assert secret == "a1" * 12
    assert upstream(control)[ALICE, secret]["key"] == "from-a-file-0123456789"
    value.write_text('{"key": "another-one-0123456789"}')
    control("set-secret", secret, "--value-file", str(value), "--name", "renamed", "--without", "headerName")
    assert upstream(control)[ALICE, secret] == {"key": "another-one-0123456789"}
    assert "renamed" in flowmate("list", ALICE).out
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"key": "from-stdin-0123456789"}')))
    control("set-secret", secret, "--value-file", "-")
    assert upstream(control)[ALICE, secret] == {"key": "from-stdin-0123456789"}
    for content, says in (("[]", "not a JSON object"), (None, "No such file")):
        value.unlink() if content is None else value.write_text(content)
        ended = flowmate("sandbox", "set-secret", secret, "--value-file", "value.json")
        assert (ended.code, says in ended.complaint) == (2, True), ended


def test_owners_and_providers_are_changed(sandbox, flowmate, control):
    """The owners are those that are named, and `none` ends a provider's fault."""
    secret = control("add-secret", "SESSION_AUTH", ALICE, "--provider-fault", "no_token")
    control("set-secret", secret, "--owner", ALICE, "--owner", BOB, "--looks-masked")
    assert {name for name, shown in upstream(control) if shown == secret} == {ALICE, BOB}
    assert flowmate("get", BOB, secret).code != 0
    control("set-secret", secret, "--provider-fault", "none")
    assert flowmate("get", BOB, secret).code == 0
    control("set-secret", secret, "--tenant-owned")
    assert secret not in flowmate("list", ALICE).out
    tenants = control("add-secret", "API_KEY", "--tenant-owned")
    assert flowmate("get", ALICE, tenants).code == 0


def test_settings_users_and_tokens_are_changed(sandbox, flowmate, control):
    """Fields that are not named stay unchanged."""
    settings = json.loads(control("configure", "--outage", "iam", "--rate", "50", "--latency", "0.001"))
    assert (settings["outage"], settings["rate"], settings["latency_seconds"]) == ("iam", 50, 0.001)
    settings = json.loads(
        control("configure", "--outage", "none", "--rate", "0", "--provider-fault", "hang", "--no-raw-read")
    )
    assert (settings["outage"], settings["rate"], settings["raw_read"]) == (None, None, False)
    assert (settings["provider_fault"], settings["latency_seconds"]) == ("hang", 0.001)
    settings = json.loads(control("configure", "--provider-fault", "none", "--raw-read", "--faults", ""))
    assert (settings["provider_fault"], settings["raw_read"]) == (None, True)
    settings = json.loads(control("configure", "--burst", "7", "--provider-seconds", "0.25"))
    assert (settings["burst"], settings["provider_seconds"]) == (7, 0.25)
    control("add-user", "masked-one", "--no-raw-read")
    control("add-user", "disabled-one", "--disabled")
    assert "masked-one" in flowmate("users").out
    assert "disabled-one" not in flowmate("users").out
    secret = control("add-secret", "API_KEY", "masked-one")
    assert flowmate("get", "masked-one", secret).code != 0
    control("set-user", "disabled-one", "--enabled")
    flowmate("list", "disabled-one")
    assert [control("revoke-tokens", "disabled-one"), control("revoke-tokens", "disabled-one")] == ["1", "0"]
    assert int(control("revoke-tokens")) >= 1


def test_the_truth_hides_credentials_unless_they_are_to_be_revealed(sandbox, control):
    """One line per secret either way."""
    hidden = [json.loads(line) for line in control("truth").splitlines()]
    assert len(hidden) == len(upstream(control))
    assert all(row.keys() == {"username", "secret_id", "type"} for row in hidden)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("set-permission", "nobody", "--raw-read"), "no user 'nobody'"),
        (("remove-user", "no/body"), "no user 'no/body'"),
        (("remove-secret", "0" * 24), "no secret"),
        (("set-secret", "0" * 24), "nothing is to be changed"),
        (("configure",), "nothing is to be changed"),
        (("configure", "--outage", "moon"), "moon"),
        (("configure", "--faults", "restet=1"), "restet"),
        (("add-secret", "API_KEY"), "owned by users or by the tenant"),
        (("add-user", ALICE), "already"),
    ],
)
def test_what_cannot_be_done_ends_with_a_reason(connected, flowmate, arguments, says):
    """Exit code 2 and one line."""
    ended = flowmate("sandbox", *arguments)
    assert (ended.code, says in ended.complaint) == (2, True), ended


def test_a_command_without_a_sandbox_says_what_to_do(flowmate, monkeypatch):
    """No URL, no token, a closed port, and a server that is not a sandbox."""
    assert "FLOWMATE_BASE_URL" in flowmate("sandbox", "stats").complaint
    monkeypatch.setenv("FLOWMATE_BASE_URL", "http://127.0.0.1:9")
    assert "FLOWMATE_ADMIN_TOKEN" in flowmate("sandbox", "stats").complaint
    monkeypatch.setenv("FLOWMATE_ADMIN_TOKEN", "token-0123456789")
    assert "Start one: flowmate sandbox" in flowmate("sandbox", "stats").complaint
    for raw in (http(b"<p>", kind="text/html"), http(b"<p>", kind="text/html", status="404 Not Found")):
        with answering(raw.replace(b"200 OK", b"302 Found")) as url:
            monkeypatch.setenv("FLOWMATE_BASE_URL", url)
            assert "not a sandbox of this version" in flowmate("sandbox", "stats").complaint


def test_a_redirect_is_not_followed(connected, flowmate, monkeypatch):
    """Not even to a sandbox: the token is for the URL that was named."""
    moved = http(b"", status="302 Found").replace(
        b"\r\n", f"\r\nLocation: {connected.url}/_sandbox/stats\r\n".encode(), 1
    )
    with answering(moved) as url:
        monkeypatch.setenv("FLOWMATE_BASE_URL", url)
        assert "not a sandbox of this version" in flowmate("sandbox", "stats").complaint


def test_a_command_never_speaks_to_another_machine(flowmate, monkeypatch):
    """A real FlowMate must not be asked to remove anything, and must not see the token."""
    monkeypatch.setenv("FLOWMATE_BASE_URL", "https://api.platform.openintegrationhub.com")
    monkeypatch.setenv("FLOWMATE_ADMIN_TOKEN", "token-0123456789")
    ended = flowmate("sandbox", "remove-user", ALICE)
    assert (ended.code, "this machine only" in ended.complaint) == (2, True)


def test_the_admin_token_may_come_from_a_private_file(connected, flowmate, home, monkeypatch):
    """As for every other command."""
    file = home / "token"
    file.touch(mode=0o600)
    file.write_text(connected.admin_token)
    monkeypatch.delenv("FLOWMATE_ADMIN_TOKEN")
    assert flowmate("sandbox", "stats", "--admin-token-file", "token").code == 0
    file.chmod(0o644)
    assert flowmate("sandbox", "stats", "--admin-token-file", "token").code == 2


def test_every_command_of_the_sandbox_is_in_the_manual(request):
    """docs/testing.md names each of them."""
    manual = (request.config.rootpath / "docs" / "testing.md").read_text(encoding="utf-8")
    for name in app["sandbox"]:
        if not name.startswith("-"):
            assert f"flowmate sandbox {name}" in manual, name


def broken(flowmate):
    """The (user, secret id) of every credential that cannot be fetched now."""
    return {
        (shown["username"], shown["secret_id"])
        for shown in map(json.loads, flowmate("health", "--json").out.splitlines())
        if shown["reason"] in ("refused", "client_failing", "refresh_failing")
    }


def test_a_credential_and_an_oauth_client_are_broken_and_healed(sandbox, flowmate, control):
    """Exactly theirs: the others are synced."""
    control("set-permission", "user-000004@tenant.example", "--raw-read")
    secret = control("add-secret", "OA2_AUTHORIZATION_CODE", ALICE)
    client = upstream(control)[ALICE, secret]["auth_client_id"]
    night = ("sync", "--all-users", "--full")
    control("break", secret)
    assert flowmate(*night).code == 1
    assert broken(flowmate) == {(ALICE, secret)}
    before = upstream(control)[ALICE, secret]
    control("heal", secret)
    assert flowmate(*night).code == 0
    assert broken(flowmate) == set()
    after = upstream(control)[ALICE, secret]
    assert after["access_token"] != before["access_token"], "the user has connected the app again"

    control("break", "--client", client)
    flowmate(*night)
    theirs, truth = broken(flowmate), upstream(control)
    assert (ALICE, secret) in theirs
    assert {truth[place]["auth_client_id"] for place in theirs} == {client}
    control("heal", "--client", client)
    assert flowmate(*night).code == 0
    assert broken(flowmate) == set()

    control("break", "--every-client")
    flowmate(*night)
    assert broken(flowmate) > theirs
    control("heal", "--every-client")
    assert flowmate(*night).code == 0
    assert broken(flowmate) == set()


@pytest.mark.parametrize("flags", [(), ("a1" * 12, "--every-client"), ("--client", "x", "--every-client")])
def test_what_is_broken_has_to_be_named_in_one_way(sandbox, flowmate, flags):
    for verb in ("break", "heal"):
        ended = flowmate("sandbox", verb, *flags)
        assert (ended.code, "--every-client" in ended.complaint) == (2, True)


def test_a_key_cannot_be_broken_by_a_provider(sandbox, flowmate, control):
    secret = control("add-secret", "API_KEY", ALICE)
    ended = flowmate("sandbox", "break", secret)
    assert (ended.code, "never renewed" in ended.complaint) == (2, True)


def test_the_admin_token_can_outlive_the_process(home):
    tokens = []
    for _ in range(2):
        with twin_process("--users", "1", "--token-file", "token") as twin:
            tokens.append(twin.admin_token)
    assert tokens[0] == tokens[1] == (home / "token").read_text().strip()
    assert (home / "token").stat().st_mode & 0o777 == 0o600


def test_a_token_file_that_others_can_read_is_refused(flowmate, home):
    (home / "token").write_text("known-to-others")
    (home / "token").chmod(0o644)
    assert "the token file token has mode 0644" in flowmate("sandbox", "--token-file", "token").complaint
