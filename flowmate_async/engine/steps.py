"""The steps of calls that cannot be sent now: wait, queue, obtain a token, or end."""

from collections.abc import Iterable
from typing import Protocol

from flowmate_async.engine.alarm import Alarm
from flowmate_async.engine.call import Call
from flowmate_async.engine.contender import Contender
from flowmate_async.engine.decision import Gates, Now, Refuse, Step, Wait
from flowmate_async.engine.ready_queue import ReadyQueue
from flowmate_async.engine.refreshes import RefreshStep
from flowmate_async.engine.side_tasks import SideTasks
from flowmate_async.engine.states import ASKING, TIMED, TOKENLESS
from flowmate_async.events import Emitter, ProviderRefused


class Contenders(Protocol):
    """The engine, as its steps know it."""

    def hurry_contender(self, holder: Contender) -> None:
        """Hurry a background contender that something interactive waits for."""

    def resume_contenders(self, contenders: Iterable[Contender]) -> None:
        """Resume contenders that have waited for a turn or a slot."""


class Steps:
    """Carries out the steps that ``decision.py`` returns, except sending.

    Args:
        contenders: the engine, which resumes and hurries other calls.
        gates: the gates that a call has to pass.
        alarm: resumes calls at a point in time.
        ready: the calls that may be sent.
        side_tasks: identify OAuth clients and borrow slots.
        emitter: told of refused calls.
    """

    __slots__ = ("_alarm", "_contenders", "_emitter", "_gates", "_ready", "_side_tasks")

    def __init__(
        self,
        contenders: Contenders,
        gates: Gates,
        *,
        alarm: Alarm,
        ready: ReadyQueue[Call],
        side_tasks: SideTasks,
        emitter: Emitter,
    ) -> None:
        self._contenders = contenders
        self._gates = gates
        self._alarm = alarm
        self._ready = ready
        self._side_tasks = side_tasks
        self._emitter = emitter

    def follow(self, call: Call, step: Step) -> None:
        """Carry out the step of a call that cannot be sent now."""
        if isinstance(step, RefreshStep):
            self._follow_refresh(call, step)
        elif isinstance(step, Wait):
            self._wait(call, step)
        elif isinstance(step, Refuse):
            self._refuse(call, step)
        elif step is Now.OBTAIN_TOKEN:
            call.state = TOKENLESS
            call.identity.obtain(call)

    def _follow_refresh(self, call: Call, step: RefreshStep) -> None:
        refreshes = self._gates.refreshes
        if step is RefreshStep.AWAIT_TURN:
            holder = refreshes.park_for_turn(call)
            if holder is not None:
                self._contenders.hurry_contender(holder)
        elif step is RefreshStep.AWAIT_SLOT:
            refreshes.park_for_slot(call)
        elif step is RefreshStep.CHANGE_SLOT:
            self._contenders.resume_contenders(refreshes.end_attempt(call))
            self._ready.push_front(call)
        elif step is RefreshStep.IDENTIFY:
            call.state = ASKING
            refreshes.take_turn(call)
            self._side_tasks.find_client(call, call.go_on)
        elif step is RefreshStep.BORROW:
            call.state = ASKING
            refreshes.take_slot(call)
            self._side_tasks.borrow(call)

    def _wait(self, call: Call, step: Wait) -> None:
        call.state = TIMED
        if step.patience_seconds is not None:
            call.troubled().patience_seconds = step.patience_seconds
        # Do not hold a slot while waiting.
        self._contenders.resume_contenders(self._gates.refreshes.end_attempt(call))
        self._alarm.set(call, step.until)

    def _refuse(self, call: Call, step: Refuse) -> None:
        refreshes = self._gates.refreshes
        if step.by_breaker:
            self._gates.breaker.refused_for()
        elif step.by_provider:
            refreshes.refuse(call)
            self._emitter.emit(ProviderRefused(refreshes.client_of(call.request) or ""))
        call.fail(step.error)
