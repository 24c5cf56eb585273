"""A run, drawn from its seed: the world, the faults, the client's bounds, what happens on the way. Pure."""

from random import Random
from typing import Any, Literal

import msgspec

from flowmate_async.sandbox import Faults, ProxyOptions

from .fault_mix import WAIT_SECONDS, mix

LOCK_SECONDS = 0.1
"""The sandbox's refresh lock; upstream's has ten seconds."""

QUARANTINE_SECONDS = 0.12
"""The client's ``lock_seconds``, past the lock as its default is."""

RETRY_AFTER_CAP_SECONDS = 0.05

Interruption = Literal["stop", "cancel", "disk_full"]
"""How a part ends early: the ``stop`` event, a cancelled task and a new client, a store that is full."""

Deed = Literal[
    "revoke_all",
    "revoke_one",
    "delete_user",
    "move_item",
    "mask",
    "unmask",
    "mask_user",
    "unmask_user",
    "add_secret",
    "remove_secret",
    "jump_clock",
]
"""A change of the sandbox's world, or of the client's clock, during a run."""


class Ending(msgspec.Struct, frozen=True):
    """An interruption after so many events of the client's."""

    kind: Interruption
    after_events: int


class Mischief(msgspec.Struct, frozen=True):
    """A deed after so many events of the client's."""

    deed: Deed
    after_events: int
    draw: float
    """Picks the victim, from 0 to 1 of those there are; or how far the clock jumps, from back to forth."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """The client's bounds in this run."""

    rate: float | None
    burst: int
    concurrency: int
    page_size: int
    workers: int


class World(msgspec.Struct, frozen=True, kw_only=True):
    """How the sandbox is made."""

    users: int
    named: tuple[str, ...] | None
    """The usernames that are given; ``None`` for all users of the tenant."""

    rate: float | None
    burst: int
    token_life_seconds: float
    access_life_seconds: float
    refresh_below_seconds: float
    provider_seconds: float
    masked_share: float = 0.0
    shared_secrets: int = 0
    no_expires_in_share: float = 0.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    seed: int
    mode: Literal["sync", "sweep"]
    world: World
    bounds: Bounds
    faults: Faults
    proxy: ProxyOptions | None
    endings: tuple[Ending, ...]
    mischief: tuple[Mischief, ...]
    heals: bool
    """At last the faults end and the failed users are tried again: then everything must be there."""

    removed: Literal["keep", "delete"] = "keep"
    """What becomes of credentials that a complete run found missing."""

    @property
    def transport(self) -> Literal["aiohttp", "wire"]:
        """What carries the requests: eight runs of each in turn, so that every mode is on both."""
        return "wire" if self.seed // 8 % 2 else "aiohttp"

    @property
    def masks_everybody(self) -> bool:
        """Whether the permission to read credentials is taken from the whole tenant for a while."""
        return any(mischief.deed == "mask" for mischief in self.mischief)

    @property
    def clock_jumps(self) -> bool:
        """Whether the client's wall clock is wrong for a while."""
        return any(mischief.deed == "jump_clock" for mischief in self.mischief)

    @property
    def delays_before_processing(self) -> bool:
        """Whether a request may be processed after its sender has given it up."""
        return self.proxy is not None or any(rule.kind == "latency" for rule in self.faults.rules)


def plan_for(seed: int) -> Plan:
    """The run of a seed; the same one each time."""
    rng = Random(f"chaos/{seed}")
    mode = "sweep" if seed % 8 == 5 else "sync"
    proxy = _proxy(seed, rng) if seed % 4 == 1 else None
    endings = tuple(_ending(rng) for _ in range(rng.choice([0, 0, 1, 1, 2]))) if mode == "sync" else ()
    return Plan(
        seed=seed,
        mode=mode,
        world=msgspec.structs.replace(_world(rng), **_tenant(seed)),
        bounds=_bounds(rng),
        faults=mix(seed, rng),
        proxy=proxy,
        endings=endings,
        mischief=_mischief(rng) + _jumps(seed) + _permissions(seed),
        heals=mode == "sync" and proxy is None and rng.random() < 0.5,
        removed=Random(f"removed/{seed}").choice(["keep", "delete"]),
    )


def _world(rng: Random) -> World:
    users = rng.randint(3, 8)
    # The first user has forty secrets of every kind, and the sandbox's "all users" has the first user.
    crowded = rng.random() < 0.35
    named = [f"user-{number:06d}@tenant.example" for number in range(0 if crowded else 1, users)]
    named += [f"nobody-{number}" for number in range(rng.choice([0, 0, 1]))]
    rng.shuffle(named)
    short_lived = rng.random() < 0.3
    provider_seconds = rng.choice([0.0, 0.0, 0.0, 0.01, 0.01, 0.01 if crowded else 1.2 * WAIT_SECONDS])
    return World(
        users=users,
        named=None if crowded and rng.random() < 0.5 else tuple(named),
        rate=rng.choice([None, None, 150.0]),
        burst=rng.randint(3, 20),
        token_life_seconds=rng.choice([3 * 3600.0, 3 * 3600.0, 0.15]),
        access_life_seconds=0.6 if short_lived else 3600.0,
        refresh_below_seconds=0.2 if short_lived else 900.0,
        provider_seconds=provider_seconds,
    )


def _bounds(rng: Random) -> Bounds:
    return Bounds(
        rate=rng.choice([None, 300.0, 600.0]),
        burst=rng.randint(2, 20),
        concurrency=rng.randint(2, 12),
        page_size=rng.choice([4, 10, 30, 100]),
        workers=rng.choice([0, 0, 3, 6]),
    )


def _proxy(seed: int, rng: Random) -> ProxyOptions:
    return ProxyOptions(
        seed=seed,
        cut_share=rng.choice([0.0, 0.1, 0.3]),
        cut_within_bytes=rng.choice([200, 4000]),
        stall_share=rng.choice([0.0, 0.1, 0.3]),
        stall_seconds=rng.choice([0.05, 1.5 * WAIT_SECONDS]),
        stall_within_bytes=rng.choice([200, 4000]),
        split_bytes=rng.choice([0, 100, 300]),
        up_delay_seconds=rng.choice([0.0, 0.001]),
        down_delay_seconds=rng.choice([0.0, 0.001]),
    )


def _ending(rng: Random) -> Ending:
    return Ending(rng.choice(["stop", "cancel", "cancel", "disk_full"]), rng.randint(3, 60))


def _mischief(rng: Random) -> tuple[Mischief, ...]:
    deeds: list[Mischief] = []
    for _ in range(rng.choice([0, 1, 2, 4])):
        deed = rng.choice(
            ["revoke_all", "revoke_one", "delete_user", "move_item", "mask", "add_secret", "remove_secret"]
        )
        after = rng.randint(1, 100)
        deeds.append(Mischief(deed, after, rng.random()))
        if deed == "mask":
            deeds.append(Mischief("unmask", after + rng.randint(1, 10), 0.0))
    return tuple(deeds)


def _tenant(seed: int) -> dict[str, Any]:
    """Return what is unusual about the tenant; drawn by itself, as the jumps are."""
    rng = Random(f"tenant/{seed}")
    return {
        "masked_share": rng.choice([0.0, 0.0, 0.0, 0.3, 0.6]),
        "shared_secrets": rng.choice([0, 0, 1, 3]),
        "no_expires_in_share": rng.choice([0.0, 0.0, 0.5]),
    }


def _permissions(seed: int) -> tuple[Mischief, ...]:
    """Return deeds that take the permission from single users, and sometimes give it back."""
    rng = Random(f"permissions/{seed}")
    deeds: list[Mischief] = []
    for _ in range(rng.choice([0, 0, 1, 2])):
        after, victim = rng.randint(1, 80), rng.random()
        deeds.append(Mischief("mask_user", after, victim))
        if rng.random() < 0.5:
            deeds.append(Mischief("unmask_user", after + rng.randint(1, 40), victim))
    return tuple(deeds)


def _jumps(seed: int) -> tuple[Mischief, ...]:
    """For every seventh seed a wall clock that jumps, from the first event on."""
    rng = Random(f"jumps/{seed}")
    moments = [0, rng.randint(1, 60), rng.randint(1, 120)] if seed % 7 == 2 else []
    return tuple(Mischief("jump_clock", moment, rng.random()) for moment in moments)
