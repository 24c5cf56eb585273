"""What a broker takes: it is installed with the extras, and whatever else is said before any work begins."""

import re
from importlib.metadata import requires

import pytest

from flowmate_async.cli.app import run

WHICH = re.compile(r"extra *== *[\"\'](\w+)")


def required(distribution, *extras):
    """The names of what some extras of a distribution take."""
    for text in requires(distribution) or ():
        extra = WHICH.search(text)
        if extra and extra.group(1) in extras:
            yield re.match(r"[A-Za-z0-9_-]+", text).group()


def test_the_extras_bring_what_a_redis_broker_takes():
    assert set(required("kombu", "redis")) <= set(required("flowmate-async", "celery", "redis"))


@pytest.mark.parametrize(
    "url", ["http://never-shown@broker", "never-shown", "pyamqp2://never:shown@broker//"]
)
@pytest.mark.parametrize("command", [["worker"], ["sync", "--all-users", "--celery"]])
def test_a_broker_that_celery_does_not_know_is_said_to_be_one(monkeypatch, capsys, tmp_path, command, url):
    monkeypatch.setenv("FLOWMATE_ADMIN_TOKEN", "a")
    monkeypatch.setenv("FLOWMATE_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("FLOWMATE_STORE", f"sqlite:///{tmp_path}/credentials.db")
    monkeypatch.setenv("FLOWMATE_STORE_KEY", "5a" * 32)
    monkeypatch.setenv("FLOWMATE_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("FLOWMATE_BROKER_URL", url)
    assert run(command) == 2
    said = capsys.readouterr().err
    assert "FLOWMATE_BROKER_URL cannot be used" in said
    assert not {"never", "Traceback"} & set(re.findall(r"\w+", said))
