"""Bounds of client and sandbox, scaled so that a run lasts about a second: for 30 s here are 0.2 s."""

from collections.abc import Callable

from flowmate_async import ApiLimits, BreakerPolicy, FlowPolicy, FreshnessPolicy, RetryPolicy
from flowmate_async.sandbox import SandboxOptions

from .fault_mix import BODY_CAP_BYTES, WAIT_SECONDS
from .plan import LOCK_SECONDS, QUARANTINE_SECONDS, RETRY_AFTER_CAP_SECONDS, Plan
from .record import Record

LIMITS = ApiLimits(
    timeout_seconds=WAIT_SECONDS, secret_timeout_seconds=WAIT_SECONDS, max_body_bytes=BODY_CAP_BYTES
)
CALM_LIMITS = ApiLimits(timeout_seconds=10.0, secret_timeout_seconds=10.0, max_body_bytes=BODY_CAP_BYTES)
"""When nothing is wrong any more, a busy machine must not be taken for a fault."""

RETRY = RetryPolicy(
    attempts=4,
    base_seconds=0.005,
    cap_seconds=0.04,
    deadline_seconds=2.0,
    retry_after_cap_seconds=RETRY_AFTER_CAP_SECONDS,
    lock_seconds=QUARANTINE_SECONDS,
)
BREAKER = BreakerPolicy(
    window_seconds=0.5, failures=10, subjects=3, open_seconds=0.03, max_open_seconds=0.2, probes=2
)
FLOW = FlowPolicy(recovery_seconds=0.1)
FRESHNESS = FreshnessPolicy(
    advisory_seconds=(0.1, 0.15),
    static_ttl_seconds=0.2,
    session_ttl_seconds=0.1,
    skew_seconds=0.005,
    cool_down_seconds=0.05,
    negative_ttl_seconds=0.05,
)


def twin_options(plan: Plan, mint: Callable[[str, str, int], str]) -> SandboxOptions:
    """The sandbox of a plan; ``mint`` names its provider's tokens."""
    world = plan.world
    return SandboxOptions(
        users=world.users,
        seed=plan.seed,
        rate=world.rate,
        burst=world.burst,
        faults=plan.faults,
        token_life_seconds=world.token_life_seconds,
        access_life_seconds=world.access_life_seconds,
        refresh_below_seconds=world.refresh_below_seconds,
        provider_seconds=world.provider_seconds,
        masked_share=world.masked_share,
        shared_secrets=world.shared_secrets,
        owners_per_shared_secret=3,
        no_expires_in_share=world.no_expires_in_share,
        lock_seconds=LOCK_SECONDS,
        lock_wait_seconds=(0.01, 0.015),
        mint_token=mint,
        shutdown_seconds=0.01,
    )


def limit_seconds(record: Record) -> float:
    """How long a part may take: a base, and for each secret and user what one bad answer costs."""
    rate = record.plan.bounds.rate
    work = len(record.lives) + 3 * len(record.given)
    return 5.0 + work * (0.1 + (1 / rate if rate else 0.0))
