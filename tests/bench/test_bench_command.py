"""``flowmate bench``: figures of every contender, and what is not installed."""

import importlib.util

import msgspec
import pytest

from flowmate_async.cli.app import run

QUICK = ["bench", "--rounds", "2", "--seconds", "0.02", "--users", "5"]


def test_json_has_a_figure_for_each_contender(capfd):
    assert run([*QUICK, "--json"]) == 0
    found = msgspec.json.decode(capfd.readouterr().out)
    assert found["missing"] == {}
    assert set(found["contenders"]) == {
        "get_secret, wire",
        "get_secret, aiohttp",
        "sweep, wire",
        "sweep, aiohttp",
        "typical aiohttp code",
        "credential, from the cache",
    }
    assert set(found["whole_job"]) == {"sync, wire", "sync, aiohttp", "script written by hand"}
    for figure in (found["contenders"] | found["whole_job"]).values():
        assert figure["rounds"] == 2
        assert figure["per_second"] > 0
        assert figure["cpu_us"] > 0
        assert figure["lower_quartile"] <= figure["per_second"] <= figure["upper_quartile"]


def test_tables_have_titles_in_words_and_progress_goes_to_stderr(capfd):
    assert run(QUICK) == 0
    out, err = capfd.readouterr()
    one, whole = out.split("\n\n")
    for table, unit in ((one, "credential"), (whole, "user")):
        title, *rows = table.strip().splitlines()
        assert f"{unit}s per second" in title
        assert title.endswith("CPU µs each")
        assert len(title) == 80
        assert all(len(row) == len(title) for row in rows)
    assert "18 of 18 rounds measured" in err
    assert "measured" not in out


def test_without_uvloop_the_figures_say_how_to_get_it(capfd, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "uvloop" else find(name, *more)
    )
    assert run(QUICK) == 0
    out = capfd.readouterr().out
    assert "pip install 'flowmate-async[wire]'" in out
    assert "get_secret, wire" in out


@pytest.mark.parametrize(
    "wrong", [["--rounds", "0"], ["--seconds", "0"], ["--seconds", "nan"], ["--users", "0"]]
)
def test_what_cannot_be_measured_is_a_usage_error(capfd, wrong):
    assert run(["bench", *wrong]) == 2
    err = capfd.readouterr().err
    assert "--rounds" in err
    assert "Traceback" not in err
