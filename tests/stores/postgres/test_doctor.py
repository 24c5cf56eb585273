"""``flowmate doctor`` before a first sync into PostgreSQL."""

from flowmate_async.cli.app import run


def test_a_store_that_the_first_sync_makes_is_no_error(postgres, schema, key, monkeypatch, capsys, tmp_path):
    """The server was reached with the password; only the tables are missing."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("FLOWMATE_STORE", postgres.url(schema))
    monkeypatch.setenv("FLOWMATE_STORE_KEY", key.encoded())
    run(["doctor", "--base-url", "http://127.0.0.1:9"])
    line = next(line for line in capsys.readouterr().out.splitlines() if " store:" in line)
    assert line.split()[:2] == ["ok", "store:"]
    assert "the first sync makes it" in line
