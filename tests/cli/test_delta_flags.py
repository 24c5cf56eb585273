"""Flags for what a sync fetches again: each reaches the policy, and nonsense is refused."""

import pytest

from flowmate_async import ConfigurationError, DeltaPolicy
from flowmate_async.cli.delta_flags import DeltaFlags

HOUR = 3600.0


def test_the_defaults_are_the_librarys():
    assert DeltaFlags().policy() == DeltaPolicy()


@pytest.mark.parametrize(
    ("flags", "policy"),
    [
        ({"full": True}, DeltaPolicy(full=True)),
        ({"volatile": "skip"}, DeltaPolicy(skip_volatile=True)),
        ({"keep_tokens": True}, DeltaPolicy(keep_tokens=True)),
        ({"types": ("API_KEY",)}, DeltaPolicy(types=("API_KEY",))),
        ({"max_staleness": ("0",)}, DeltaPolicy(staleness_seconds=0.0)),
        ({"max_staleness": ("1.5",)}, DeltaPolicy(staleness_seconds=1.5 * HOUR)),
        ({"max_staleness": ("API_KEY=2",)}, DeltaPolicy(staleness_by_type={"API_KEY": 2 * HOUR})),
    ],
    ids=str,
)
def test_each_flag_reaches_the_policy(flags, policy):
    assert DeltaFlags(**flags).policy() == policy


@pytest.mark.parametrize("text", ["nan", "-1", "API_KEY=-0.1", "API_KEY=nan", "soon", ""])
def test_what_is_no_number_of_hours_is_refused(text):
    with pytest.raises(ConfigurationError, match="is not a number of hours"):
        DeltaFlags(max_staleness=(text,)).policy()
