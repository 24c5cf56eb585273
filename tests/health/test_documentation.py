"""docs/health.md says what the rules say."""

import re
from pathlib import Path

from flowmate_async.health import HealthState
from flowmate_async.health.policy import DEFAULT_POLICY, HOUR
from flowmate_async.health.states import RULES

PAGE = (Path(__file__).parents[2] / "docs" / "health.md").read_text()


def rows(heading):
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ][2:]


def test_the_table_of_reasons_is_the_table_of_rules():
    documented = {
        reason.strip("`"): (set(re.findall(r"`(\w+)`", states)), meaning, action)
        for reason, states, meaning, action in rows("Reasons")
    }
    assert documented == {
        reason.value: ({state.value for state in rule.states}, rule.meaning, rule.action)
        for reason, rule in RULES.items()
    }


def test_every_state_is_explained():
    assert [row[0].strip("`") for row in rows("States")] == [state.value for state in HealthState]


def test_the_numbers_are_those_of_the_policy():
    effects = "\n".join(row[1] for row in rows("How it is decided"))
    policy = DEFAULT_POLICY
    assert (
        f"{policy.failures.times} failures in a row over {policy.failures.over_seconds / HOUR:.0f} hours"
        in effects
    )
    often = f"{policy.rejections.times} rejections over {policy.rejections.over_seconds / HOUR:.0f} hour"
    assert often in effects
    assert f"{policy.empty.times} such answers over {policy.empty.over_seconds / HOUR:.0f} hours" in effects
    assert f"{policy.expiring_seconds / 24 / HOUR:.0f} days before" in effects
    assert f"about {policy.outage_seconds / 60:.0f} minutes" in PAGE
    assert f"at least\n{policy.outage_credentials} of them" in PAGE
    assert (policy.outage_share, policy.outage_over_share) == (0.5, 0.25), "half, and a quarter"
