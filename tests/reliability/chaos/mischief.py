"""Events during a run: changes of the sandbox's world and interruptions, after so many client events."""

import asyncio
from collections.abc import Callable

from flowmate_async.clock import SystemClock
from flowmate_async.events import Event
from flowmate_async.sandbox import Sandbox, Secret
from flowmate_async.sandbox.user import RAW_READ

from .journal import Journal
from .plan import Deed, Ending, Mischief, Plan
from .stepped_loop import wall

_LATER_VALUES = (
    ("API_KEY", {"key": "key-added-later-0123456789abcdef", "headerName": "x-api-key"}),
    (
        "OA2_AUTHORIZATION_CODE",
        {
            "authClientId": "0" * 24,
            "accessToken": "access-added-later-0123456789",
            "refreshToken": "refresh-added-later-0123456789",
            "expires": "2020-01-01T00:00:00.000Z",
        },
    ),
)


_FARTHEST_JUMP_SECONDS = 10 * 3600.0


class JumpingClock(SystemClock):
    """The client's clock, whose wall time can be set wrong."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0

    def wall(self) -> float:
        return wall() + self.ahead_seconds


class Conductor:
    """A listener of the client's events, which does what the plan says when it says.

    Attributes:
        clock: the client's clock, which jumps when the plan says so.
        seen: how many events there have been in the whole run.
    """

    def __init__(self, plan: Plan, twin: Sandbox, journal: Journal) -> None:
        self._due = sorted(plan.mischief, key=lambda mischief: mischief.after_events)
        self._twin = twin
        self._journal = journal
        self._endings: list[tuple[int, Callable[[], object]]] = []
        self.clock = JumpingClock()
        self.seen = 0
        self._do_what_is_due()

    def __call__(self, _event: Event) -> None:
        self.seen += 1
        self._do_what_is_due()
        for after, end in [ending for ending in self._endings if ending[0] <= self.seen]:
            self._endings.remove((after, end))
            end()

    def end(self, ending: Ending | None, *, stop: asyncio.Event, task: "asyncio.Task[object]") -> None:
        """Interrupt the part that begins now as its ending says."""
        self._endings.clear()
        if ending is not None and ending.kind == "stop":
            self._endings.append((self.seen + ending.after_events, stop.set))
        if ending is not None and ending.kind == "cancel":
            self._endings.append((self.seen + ending.after_events, task.cancel))

    def nothing_more(self) -> None:
        """Leave the world alone from now on."""
        self._due.clear()
        self._endings.clear()
        self.clock.ahead_seconds = 0.0

    def _do_what_is_due(self) -> None:
        while self._due and self._due[0].after_events <= self.seen:
            self._do(self._due.pop(0))

    def _do(self, mischief: Mischief) -> None:
        if mischief.deed == "jump_clock":
            self.clock.ahead_seconds = (2 * mischief.draw - 1) * _FARTHEST_JUMP_SECONDS
            return
        world = self._twin.world
        users = sorted(user.username for user in world.users() if user.active_tenant_user)
        if not users:
            return
        username = users[int(mischief.draw * len(users))]
        secrets = world.secrets_of(username)
        match mischief.deed:
            case "revoke_all":
                world.revoke_tokens()
            case "revoke_one":
                world.revoke_tokens(username)
            case "delete_user":
                world.delete_user(username)
            case "move_item":
                world.move_first_secret_last(username)
            case "add_secret":
                self._add_secret(username, mischief.draw)
            case "remove_secret" if secrets:
                self._remove_secret(secrets[int(mischief.draw * len(secrets))])
            case _:
                self._show(mischief.deed, username)

    def _show(self, deed: Deed, username: str) -> None:
        if deed in ("mask", "unmask"):
            self._twin.configure(raw_read=deed == "unmask")
        elif deed in ("mask_user", "unmask_user"):
            user = self._twin.world.user(username)
            assert user is not None
            user.permissions = (RAW_READ,) if deed == "unmask_user" else ()
            if deed == "mask_user":
                self._journal.record.unreadable.add(username)

    def _add_secret(self, username: str, draw: float) -> None:
        kind, value = _LATER_VALUES[int(draw * len(_LATER_VALUES))]
        self._journal.secret_added(
            username, self._twin.world.add_secret(username, type=kind, value=dict(value))
        )

    def _remove_secret(self, secret: Secret) -> None:
        self._journal.secret_removed(secret)
        self._twin.world.remove_secret(secret.id)
