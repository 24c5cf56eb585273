"""Which faults a run meets: rules of any kind, sized so that runs stay short. Pure, from a random source."""

from collections.abc import Callable
from random import Random
from typing import Any

from flowmate_async.sandbox import Fault, Faults, ProviderFault, faults

WAIT_SECONDS = 0.2
"""The client's deadlines in these runs; what hangs, hangs longer."""

BODY_CAP_BYTES = 128 * 1024
"""The largest body the client reads in these runs."""

_GATEWAY = (500, 502, 503)
_PAGES = ("default_backend", "firewall", "unavailable", "bad_gateway", "gateway_timeout")
_MAKERS: dict[str, Callable[[Random, float], dict[str, Any]]] = {
    "latency": lambda rng, share: {
        "share": min(1.0, 4 * share),
        "seconds": 0.01,
        "distribution": rng.choice(list(faults.Distribution)),
        "most_seconds": 2 * WAIT_SECONDS,
    },
    "hang": lambda rng, share: {"at_most": 3, "seconds": rng.choice([None, 0.05])},
    "hang_after": lambda rng, share: {"at_most": 3, "seconds": rng.choice([None, 0.05])},
    "hang_in_body": lambda rng, share: {"at_most": 3, "seconds": rng.choice([None, 0.05])},
    "throttle": lambda rng, share: {
        "retry_after": rng.choice(["seconds", "date", "none"]),
        "retry_after_seconds": rng.randint(0, 2),
    },
    "error": lambda rng, share: {
        "status": rng.choice(_GATEWAY),
        "retry_after_seconds": rng.choice([None, 0, 1]),
    },
    "error_after": lambda rng, share: {
        "status": rng.choice(_GATEWAY),
        "retry_after_seconds": rng.choice([None, 0, 1]),
    },
    "ingress_page": lambda rng, share: {"share": min(1.0, 2 * share), "page": rng.choice(_PAGES)},
    "refused": lambda rng, share: {"at_most": 2, "seconds": 0.03},
    "huge_json": lambda rng, share: {"size_bytes": rng.choice([BODY_CAP_BYTES // 2, 2 * BODY_CAP_BYTES])},
    "slow_loris": lambda rng, share: {"seconds": 0.002, "piece_bytes": rng.choice([40, 150])},
    "user_deleted": lambda rng, share: {"at_most": 2, "share": share / 2, "skip": rng.randint(0, 20)},
    "items_move": lambda rng, share: {"share": min(1.0, 5 * share)},
    "provider": lambda rng, share: {"share": min(1.0, 4 * share), "fault": rng.choice(list(ProviderFault))},
    "database_down": lambda rng, share: {"at_most": 3, "seconds": rng.choice([0.0, 0.05])},
}


def a_rule(kind: str, rng: Random, share: float) -> Fault:
    """A rule of one kind that strikes about this share of the requests."""
    made = _MAKERS.get(kind, lambda _rng, _share: {})(rng, share)
    by_tag = {str(known.__struct_config__.tag): known for known in _kinds()}
    return by_tag[kind](**{"share": share, **made})


def mix(seed: int, rng: Random) -> Faults:
    """Every kind at once, thinly, for every third seed; otherwise a few kinds, thickly."""
    if seed % 3 == 0:
        kinds, share = list(faults.KINDS), rng.uniform(0.004, 0.012)
        # Of the rules that strike one request the first acts: in another order others get their turn.
        rng.shuffle(kinds)
    else:
        kinds, share = rng.sample(faults.KINDS, rng.randint(2, 6)), rng.uniform(0.02, 0.08)
    return Faults(seed=seed, rules=tuple(a_rule(kind, rng, share) for kind in kinds))


def _kinds() -> list[Any]:
    names = (name for name in faults.__all__ if name not in ("ACCUMULATING", "KINDS", "Distribution"))
    return [getattr(faults, name) for name in names if name not in ("Fault", "Faults")]
