"""``from_env()`` reads what the command reads, by the same rules and with the same errors."""

import logging
from pathlib import Path

import msgspec
import pytest

from flowmate_async import ConfigurationError, FlowMate, FlowMateSync

from .conftest import Twin

CLIENTS = pytest.mark.parametrize("client", [FlowMate, FlowMateSync])


@pytest.fixture
def file(home: Path) -> Path:
    """The user's configuration file, which does not exist yet."""
    path = home / "config" / "flowmate" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


def limiter(client):
    stats = client.stats() if isinstance(client, FlowMate) else client._client.stats()
    return stats.traffic.limiter


class TestSources:
    def test_the_environment_is_enough_to_connect(self, connected):
        with FlowMateSync.from_env() as fm:
            assert fm.base_url == connected.url
            assert len(list(fm.users())) >= 12

    @CLIENTS
    def test_the_file_is_below_the_environment_and_arguments_are_above(
        self, client, connected, file, monkeypatch
    ):
        file.write_text("rate = 7\nconcurrency = 5\nburst = 3\n")
        monkeypatch.setenv("FLOWMATE_CONCURRENCY", "6")
        monkeypatch.delenv("FLOWMATE_RATE")
        seen = limiter(client.from_env())
        assert (seen.rate, seen.concurrency) == (7, 6)
        seen = limiter(client.from_env(rate=9, concurrency=8))
        assert (seen.rate, seen.concurrency) == (9, 8)

    def test_a_rate_of_zero_is_no_limit_as_in_the_command(self, connected):
        assert limiter(FlowMate.from_env()).rate is None  # FLOWMATE_RATE=0

    def test_an_argument_that_is_invalid_is_refused_as_ever(self, connected):
        with pytest.raises(ConfigurationError, match="rate must be"):
            FlowMate.from_env(rate=0)
        with pytest.raises(TypeError, match="colour"):
            FlowMate.from_env(colour="red")

    def test_the_file_is_the_named_one(self, connected, file, tmp_path, monkeypatch):
        file.write_text("concurrency = 5\n")
        for name, count in ("own", 6), ("other", 7):
            (tmp_path / f"{name}.toml").write_text(f"concurrency = {count}\n")
        assert limiter(FlowMate.from_env()).concurrency == 5
        monkeypatch.setenv("FLOWMATE_CONFIG", str(tmp_path / "own.toml"))
        assert limiter(FlowMate.from_env()).concurrency == 6
        assert limiter(FlowMate.from_env(config=tmp_path / "other.toml")).concurrency == 7
        with pytest.raises(ConfigurationError, match=r"gone\.toml does not exist"):
            FlowMate.from_env(config=tmp_path / "gone.toml")

    def test_an_empty_variable_counts_as_unset(self, connected, file, monkeypatch):
        file.write_text("concurrency = 5\n")
        monkeypatch.setenv("FLOWMATE_CONCURRENCY", " ")
        assert limiter(FlowMate.from_env()).concurrency == 5

    def test_a_misspelled_variable_is_logged(self, connected, monkeypatch, caplog):
        monkeypatch.setenv("FLOWMATE_CONCURENCY", "5")
        with caplog.at_level(logging.WARNING, "flowmate_async"):
            FlowMate.from_env()
        assert "Did you mean FLOWMATE_CONCURRENCY?" in caplog.text


class TestToken:
    def test_the_variable_beats_the_file_and_an_argument_beats_both(self, connected, file, home, monkeypatch):
        (home / "token").write_text(connected.admin_token)
        (home / "token").chmod(0o600)
        file.write_text('admin_token_file = "/nonexistent"\n')
        with FlowMateSync.from_env() as fm:
            assert list(fm.users())
        monkeypatch.setenv("FLOWMATE_ADMIN_TOKEN_FILE", "/nonexistent")
        with FlowMateSync.from_env() as fm, pytest.raises(ConfigurationError, match="/nonexistent"):
            list(fm.users())
        with FlowMateSync.from_env(admin_token=home / "token") as fm:
            assert list(fm.users())

    @CLIENTS
    def test_without_one_the_error_is_that_of_the_command(self, client, flowmate, connected, monkeypatch):
        monkeypatch.delenv("FLOWMATE_ADMIN_TOKEN")
        with pytest.raises(ConfigurationError) as raised:
            client.from_env()
        assert str(raised.value) == flowmate("users").complaint

    @CLIENTS
    def test_it_is_in_no_frame_of_an_error(self, client, connected, monkeypatch):
        monkeypatch.setenv("FLOWMATE_CONCURRENCY", "0")
        with pytest.raises(ConfigurationError, match="concurrency") as raised:
            client.from_env()
        frames = [entry.frame.f_locals for entry in raised.traceback[1:]]
        assert len(frames) >= 2
        assert connected.admin_token not in repr(frames)

    @CLIENTS
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("RATE", "fast"),
            ("CONFIG", "/nonexistent.toml"),
            ("BASE_URL", "https://user:planted-password@flowmate.example"),
            ("ADMIN_TOKEN", ""),
        ],
    )
    def test_no_variable_is_in_a_frame_of_an_error(
        self, client, connected, monkeypatch, exposed, name, value
    ):
        """The environment may hold every credential of the process."""
        monkeypatch.setenv("PGPASSWORD", "planted-password")
        monkeypatch.delenv("FLOWMATE_BASE_URL")
        monkeypatch.setenv(f"FLOWMATE_{name}", value)
        if name == "BASE_URL":
            monkeypatch.delenv("FLOWMATE_ADMIN_TOKEN")
        with pytest.raises(ConfigurationError) as raised:
            client.from_env()
        shown = exposed(raised.value)
        assert not [text for text in ("planted-password", connected.admin_token) if text in shown]


INVALID = [
    ("rate", "fast"), ("burst", "many"), ("concurrency", "many"), ("trust_env", "maybe"),
    ("transport", "pigeon"), ("base_url", "ftp://x"), ("base_url", "http://a.example"), ("rate", "-1"),
    ("burst", "0"), ("proxy", "socks://x:1"), ("ca_file", "/nonexistent.pem"),
]  # fmt: skip
INVALID_IN_A_FILE = [("rate", True), ("trust_env", 3), ("colour", "red"), ("admin_token", "plain")]


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        *(("environment", *one) for one in INVALID),
        *(("file", *one) for one in INVALID + INVALID_IN_A_FILE),
    ],
)
def test_what_is_invalid_is_refused_in_the_same_words(
    flowmate, connected, file, monkeypatch, where, name, value
):
    if where == "file":
        if name != "admin_token":
            monkeypatch.delenv(f"FLOWMATE_{name.upper()}", raising=False)
        file.write_text(f"{name} = {repr(value) if isinstance(value, str) else str(value).lower()}\n")
    else:
        monkeypatch.setenv(f"FLOWMATE_{name.upper()}", value)
    if name in ("ca_file", "proxy"):
        monkeypatch.setenv("FLOWMATE_BASE_URL", "https://127.0.0.1:1")
    with pytest.raises(ConfigurationError) as raised, FlowMateSync.from_env() as fm:
        list(fm.users())
    complaint = flowmate("users").complaint
    assert complaint.partition(" See: ")[0].rstrip(".") == str(raised.value).rstrip(".")


def test_the_file_has_what_a_nightly_job_keeps(flowmate, connected: Twin, file, home):
    (home / "reports").mkdir()
    file.write_text(
        f"""
        report = ["{home}/reports/night.html", "{home}/reports/night.json"]
        metrics_file = "{home}/night.prom"
        removed = "mark"
        max_removed_share = 0.5
        max_staleness = ["24", "API_KEY=1"]
        max_failures = 100
        volatile = "skip"
        type = "API_KEY"
        """
    )
    assert flowmate("sync", "--all-users").code in (0, 1)
    assert {path.name for path in (home / "reports").iterdir()} == {"night.html", "night.json"}
    assert "flowmate" in (home / "night.prom").read_text()
    listed = flowmate("store", "list", "--json").out.splitlines()
    assert {msgspec.json.decode(line)["type"] for line in listed} == {"API_KEY"}
    for kind in "api_key", "FUTURE_TYPE":
        assert f"{kind} is not a type of secret" in flowmate("sync", "--all-users", "--type", kind).complaint
    file.write_text('max_staleness = "soon"\n')
    assert "--max-staleness soon is not a number of hours" in flowmate("sync", "--all-users").complaint
    file.write_text('removed = "burn"\n')
    assert "removed" in flowmate("sync", "--all-users").complaint
    assert flowmate("users").code == 0  # the other commands leave it alone
