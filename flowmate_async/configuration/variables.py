"""The environment: known, empty and misspelled ``FLOWMATE_*`` variables."""

import difflib
import os
import re
from collections.abc import Iterable, Iterator

KNOWN = frozenset(
    {
        "FLOWMATE_ADMIN_TOKEN",
        "FLOWMATE_ADMIN_TOKEN_FILE",
        "FLOWMATE_ALLOW_PLAINTEXT",
        "FLOWMATE_BASE_URL",
        "FLOWMATE_BROKER_URL",
        "FLOWMATE_BROKER_URL_FILE",
        "FLOWMATE_BURST",
        "FLOWMATE_CA_FILE",
        "FLOWMATE_CONCURRENCY",
        "FLOWMATE_CONFIG",
        "FLOWMATE_KEEP_TOKENS",
        "FLOWMATE_LOG_FORMAT",
        "FLOWMATE_METRICS_FILE",
        "FLOWMATE_METRICS_HOST",
        "FLOWMATE_METRICS_PORT",
        "FLOWMATE_NAMESPACE",
        "FLOWMATE_NOTIFY",
        "FLOWMATE_NOTIFY_KEY",
        "FLOWMATE_NOTIFY_KEY_FILE",
        "FLOWMATE_EXIT_CODE",  # of the command of --on-failure
        "FLOWMATE_ON_FAILURE",
        "FLOWMATE_ON_OUTAGE",
        "FLOWMATE_OTEL",
        "FLOWMATE_PING_URL",
        "FLOWMATE_PROCESSES",
        "FLOWMATE_PROXY",
        "FLOWMATE_RATE",
        "FLOWMATE_REDIS_URL",
        "FLOWMATE_REDIS_URL_FILE",
        "FLOWMATE_SHARD_USERS",
        "FLOWMATE_STORE",
        "FLOWMATE_STORE_KEY",
        "FLOWMATE_STORE_KEY_FILE",
        "FLOWMATE_STORE_OTHER_KEY",
        "FLOWMATE_STORE_OTHER_KEY_FILE",
        "FLOWMATE_TRANSPORT",
        "FLOWMATE_TRUST_ENV",
        "FLOWMATE_VISIBILITY",
        "FLOWMATE_WORKERS",
    }
)
"""Every variable that a command reads."""

_PREFIX = re.compile(r"FLOWMATE[_-]?", re.IGNORECASE)
_LIKENESS = 0.6
_SERVICE_LINK = re.compile(r"FLOWMATE_(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT(_\d+_\w+)?)")
"""Variables that Kubernetes sets in every pod for a service called flowmate."""


def drop_empty_variables() -> None:
    """Remove ``FLOWMATE_*`` variables that are empty: they count as unset.

    Compose's ``${X:-}`` and a ConfigMap's ``""`` set them.
    """
    for name in [name for name, value in os.environ.items() if name.startswith("FLOWMATE_")]:
        if not os.environ[name].strip():
            del os.environ[name]


def misspelled(variables: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield unknown variables that resemble a known one, with the known name.

    Args:
        variables: the names of the variables that are set.
    """
    endings = {name.removeprefix("FLOWMATE_"): name for name in KNOWN}
    for name in sorted(variables):
        prefix = _PREFIX.match(name)
        if prefix is None or name in KNOWN or _SERVICE_LINK.fullmatch(name):
            continue
        ending = name[prefix.end() :].upper().replace("-", "_")
        near = [known for known in endings if known.endswith(f"_{ending}")]  # TOKEN for ADMIN_TOKEN
        near += difflib.get_close_matches(ending, endings, n=1, cutoff=_LIKENESS)
        if near:
            yield name, endings[near[0]]
