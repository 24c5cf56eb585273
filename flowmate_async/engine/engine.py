"""The engine: every request of one client, from submission to outcome.

Each request is one :class:`~flowmate_async.engine.call.Call`, without a task or a future of its own. Calls
wait in queues, and the transport notifies the call of its answer. ``decision.py`` decides the next step of a
call, ``steps.py`` carries out the steps of those that have to wait, ``recovery.py`` decides what follows a
failed attempt, and ``rounds.py`` when. This module sends calls, handles answers and ends calls.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextvars import copy_context

from flowmate_async.clock import Clock
from flowmate_async.contract.failures import Failure, is_good
from flowmate_async.engine.alarm import Alarm
from flowmate_async.engine.call import Call, Outcome, closed_error
from flowmate_async.engine.contender import Contender, Ticket
from flowmate_async.engine.decision import SEND, Gates, next_step
from flowmate_async.engine.feedback import Feedback, provider_failed
from flowmate_async.engine.pacer import Pacer
from flowmate_async.engine.priority import Priority
from flowmate_async.engine.rate_wait import RateWait
from flowmate_async.engine.ready_queue import ReadyQueue
from flowmate_async.engine.recovery import Recovery
from flowmate_async.engine.rounds import Answered, Rounds, report_bug
from flowmate_async.engine.side_tasks import Identify, SideTasks
from flowmate_async.engine.states import ASKING, DONE, IN_FLIGHT, PARKED, READY, TIMED, TOKENLESS
from flowmate_async.engine.steps import Steps
from flowmate_async.errors import ConfigurationError
from flowmate_async.events import Emitter
from flowmate_async.transport.base import ImmediateTransport, Response, Transport, TransportError
from flowmate_async.transport.carriers import Carriers

_Handle = Callable[[Call, Response | Exception, float], None]


class Engine:
    """Sends calls and follows each one to its outcome.

    Args:
        transport: carries the requests.
        pacer: slots, tokens and pauses.
        gates: everything else that a call has to pass.
        feedback: applies what one answer means for all other calls.
        recovery: prepares failed calls for another attempt.
        clock: the client's clock.
        emitter: told of refused calls.
        side_tasks: identify OAuth clients and borrow slots.

    Attributes:
        answered: takes the outcome of a call's exchange.
        when_handled: calls a function when the answers of this round are handled.
        max_in_flight: the highest number of requests in flight so far.
    """

    def __init__(  # noqa: PLR0913 - one parameter per collaborator
        self,
        transport: Transport,
        *,
        pacer: Pacer,
        gates: Gates,
        feedback: Feedback,
        recovery: Recovery,
        clock: Clock,
        emitter: Emitter,
        side_tasks: SideTasks,
    ) -> None:
        self._send_at_once = transport.send_at_once if isinstance(transport, ImmediateTransport) else None
        self._carriers = Carriers(transport, is_paused=pacer.is_paused, outlast_pause=pacer.outlast_pause)
        self._pacer = pacer
        self._gates = gates
        self._feedback = feedback
        self._recovery = recovery
        self._clock = clock
        self._emitter = emitter
        self._side_tasks = side_tasks
        self._ready: ReadyQueue[Call] = ReadyQueue()
        self._rate_wait = RateWait(pacer, self._ready, send=self._pump, fail=self.fail)
        self._alarm = Alarm(clock, self.resume)
        self._steps = Steps(
            self, gates, alarm=self._alarm, ready=self._ready, side_tasks=side_tasks, emitter=emitter
        )
        self._calls: set[Call] = set()
        self._rounds = Rounds(self._handle, self._pump)
        self.answered: Callable[[Call, Response | Exception], None] = self._rounds.answered
        self.when_handled: Callable[[Callable[[], object]], None] = self._rounds.when_handled
        self._pumping = False
        self._closed = False
        self._drained: asyncio.Future[None] | None = None
        self.max_in_flight: int = 0

    @property
    def waiting(self) -> int:
        """How many calls wait for a slot or for the rate."""
        return len(self._ready)

    @property
    def is_saturated(self) -> bool:
        """Whether calls wait, or waited just now, for the rate or the concurrency, and not for a pause."""
        return (bool(self._ready) or self._pacer.has_just_waited) and not self._pacer.is_paused()

    def allot(self, concurrency: int) -> None:
        """Limit the requests in flight to ``concurrency``; see :meth:`Pacer.allot`."""
        self._pacer.allot(concurrency)
        self._pump()

    def identify_with(self, identify: Identify) -> None:
        """Set the function that finds out which OAuth client is behind a secret."""
        self._side_tasks.identify = identify

    # Called by the layers above.

    def submit(self, call: Call) -> None:
        """Send a call as soon as every gate is open. The call receives the outcome once.

        Raises:
            ConfigurationError: the client is closed.
        """
        if self._closed:
            raise ConfigurationError("the client is closed", advice="Use it inside its 'async with' block")
        call.engine = self
        if self._emitter.listeners:
            call.context = copy_context()
        self._calls.add(call)
        self._rounds.new.append(call)
        if not self._pumping and not self._rounds.handling:
            self._rounds.expect()

    def hurry(self, call: Call) -> None:
        """Turn a background call into an interactive one: a caller waits for it now."""
        if call.priority is Priority.INTERACTIVE:
            return
        call.priority = Priority.INTERACTIVE
        if call.state == TOKENLESS:
            call.identity.hurry(call)
        elif call.state in (READY, TIMED, PARKED) and call not in self._rounds.new:
            # Decide again. Its old queue entry is skipped later.
            call.state = READY
            self._ready.push(call)
            self._pump()

    def hurry_contender(self, holder: Contender) -> None:
        """Hurry a background contender that something interactive waits for."""
        if isinstance(holder, Call):
            self.hurry(holder)
        elif isinstance(holder, Ticket):
            holder.priority = Priority.INTERACTIVE
            holder.hurry()

    def drop(self, call: Call) -> None:
        """End a call that nothing waits for any longer, unless it is in flight. It receives no outcome."""
        if call.state in (IN_FLIGHT, DONE):
            return
        was_parked = call.state == PARKED
        if call.state == TOKENLESS:
            call.identity.abandon(call)
        self._end(call, None)
        if was_parked:
            self.resume_contenders(self._gates.refreshes.forget_parked())

    def resume(self, *calls: Call) -> None:
        """Decide again about calls that have waited, before any new calls."""
        for call in reversed(calls):
            if call.state not in (DONE, IN_FLIGHT):
                call.state = READY
                self._ready.push_front(call)
        self._pump()

    def resume_contenders(self, contenders: Iterable[Contender]) -> None:
        """Resume contenders that have waited for a turn or a slot, unless they were hurried meanwhile."""
        for contender in contenders:
            if contender.state == PARKED:
                contender.go_on()

    def fail(self, call: Call, error: Exception) -> None:
        """Fail a waiting call."""
        if call.state != DONE:
            self._end(call, error)

    async def aclose(self, *, drain_seconds: float) -> None:
        """Fail waiting calls, and let calls in flight finish.

        Args:
            drain_seconds: how long calls in flight have to finish; then they fail as well.
        """
        self._closed = True
        for call in [call for call in self._calls if call.state != IN_FLIGHT]:
            self.fail(call, closed_error())
        try:
            if self._calls:
                self._drained = asyncio.get_running_loop().create_future()
                await asyncio.wait([self._drained], timeout=drain_seconds)
        finally:
            for call in list(self._calls):
                self.fail(call, closed_error())
            await self._rate_wait.aclose()
            await self._side_tasks.aclose()
            await self._carriers.aclose()
            await self._alarm.aclose()

    # How answers are handled.

    def _handle(self, answers: Answered) -> None:
        """Learn from the answers of one round, then give each call its outcome."""
        now = self._clock.monotonic()
        good: list[tuple[Call, Response]] = []
        others: Answered = []
        for call, answer in answers:
            if call.state != IN_FLIGHT:  # it failed when the client was closed
                self._pacer.leave()
            elif type(answer) is Response and (answer.status == 200 or is_good(call.request, answer)):
                good.append((call, answer))
            else:
                others.append((call, answer))
        if good:
            try:
                self._feedback.good(good, now)
            except Exception as error:  # noqa: BLE001 - a bug; the answers must not be lost
                report_bug(error)
            self._pacer.leave(len(good))
        stages: tuple[tuple[_Handle, Sequence[tuple[Call, Response | Exception]]], ...] = (
            (self._succeeded, good),
            (self._failed, others),
        )
        for handle, some in stages:
            for call, answer in some:
                try:
                    if call.context is None:
                        handle(call, answer, now)
                    else:
                        call.context.run(handle, call, answer, now)
                except Exception as error:  # noqa: BLE001 - a bug; the other answers must not be lost
                    self._give_up(call, error)

    def _succeeded(self, call: Call, answer: Response | Exception, now: float) -> None:
        call.identity.accepted(call.token, now)
        if call.refresh is not None:
            self.resume_contenders(self._ended_attempt(call, None))
        self._end(call, answer)

    def _failed(self, call: Call, answer: Response | Exception, now: float) -> None:
        self._pacer.leave()
        if not isinstance(answer, Response | TransportError):
            self._feedback.crashed(call)
            self._end(call, answer)
            return
        failure = self._feedback.bad(call, answer, now)
        call.state = READY
        others = self._ended_attempt(call, failure)
        self._attribute(call, failure)
        if others:  # later, since simultaneous failures may stop the provider's refreshes
            asyncio.get_running_loop().call_soon(self.resume_contenders, others)

    def _pump(self) -> None:
        """Send waiting calls in order, as far as slots and tokens allow."""
        rounds = self._rounds
        if self._pumping or rounds.handling or not (self._ready.size or rounds.new):
            return
        self._pumping = True
        now, wall = self._clock.monotonic(), self._clock.wall()
        try:
            self._send_ready(now, wall)
            while rounds.new:
                new, rounds.new = rounds.new, []
                self._admit(new, now, wall)
                self._send_ready(now, wall)  # what was resumed meanwhile
        finally:
            self._pumping = False
            self.max_in_flight = max(self.max_in_flight, self._pacer.taken)

    def _send_ready(self, now: float, wall: float) -> None:
        """Send calls that have waited for a slot or a token, or are retried."""
        pacer, ready = self._pacer, self._ready
        while pacer.taken < pacer.slots and (call := ready.pop()) is not None:
            if not self._can_send(call, now, wall):
                continue
            if pacer.take():
                self._send(call, now)
            else:
                ready.put_back(call)
                self._rate_wait.begin()
                return

    def _admit(self, new: list[Call], now: float, wall: float) -> None:
        """Decide about new calls. Those that can be sent queue behind the ones that are ready."""
        pacer, ready = self._pacer, self._ready
        for call in new:
            if call.state != READY:
                continue  # dropped meanwhile
            if not self._can_send(call, now, wall):
                continue
            if not ready.size and pacer.take():
                self._send(call, now)
            else:
                ready.push(call)
                self._rate_wait.begin()

    # How a call proceeds.

    def _can_send(self, call: Call, now: float, wall: float) -> bool:
        """Return whether every gate is open for a call. If not, carry out its next step."""
        try:
            call.token = call.identity.current(now, wall)
            step = next_step(call, self._gates, now)
            if step is not SEND:
                call.run(self._steps.follow, call, step)
        except Exception as error:  # noqa: BLE001 - a bug; the other calls must not be lost
            self._give_up(call, error)
            return False
        return step is SEND

    def _send(self, call: Call, now: float) -> None:
        """Hand a call to the transport, which notifies it of the answer."""
        breaker = self._gates.breaker
        others: Sequence[Contender] = ()
        call.sent_at, call.epoch, call.state = now, breaker.epoch, IN_FLIGHT
        send, token = self._send_at_once, call.token
        try:
            if call.request.may_refresh:
                others = self._gates.refreshes.begin(call)
            if not breaker.closed:
                breaker.refused_for()  # this one is a probe
            if not call.was_sent:
                call.was_sent = True
                self._recovery.note_first_attempt()
            if call.tally is not None:
                call.tally.requests += 1
            request = call.request
            if token is None:
                raise AssertionError("the decision to send comes after the token")  # noqa: TRY301
            if send is None or not send(
                request.method, request.path, token.headers, request.body, call.limits, then=call
            ):
                self._carriers.carry(
                    request.method, request.path, token.headers, request.body, call.limits, call
                )
        except Exception as error:  # noqa: BLE001 - a fault of the transport, which is the caller's to see
            call(error)
        if others:
            self.resume_contenders(others)

    # How a call ends, and what happens after a failed attempt.

    def _attribute(self, call: Call, failure: Failure) -> None:
        """Find out which client's provider keeps failing, so that its other secrets are not fetched."""
        refreshes, held = self._gates.refreshes, call.refresh
        if held is None or held.client is not None or not provider_failed(failure):
            self._after_failure(call, failure)
            return

        def attributed() -> None:
            client = refreshes.client_of(call.request)
            refreshes.bulkheads.note_failure(client, secret_id=call.request.secret_id)
            if call.state != DONE:
                call.state = READY
                self._after_failure(call, failure)
                self._pump()

        if refreshes.bulkheads.suspicious and not refreshes.is_known(call.request):
            call.state = ASKING
            self._side_tasks.find_client(call, attributed)
        else:
            attributed()

    def _after_failure(self, call: Call, failure: Failure) -> None:
        """Try again if that may help; otherwise end the call."""
        if not self._closed and call.is_wanted and self._recovery.prepare(call, failure):
            self._ready.push(call)
        else:
            self._end(call, failure.error)

    def _end(self, call: Call, outcome: Outcome | None) -> None:
        """End a call; ``None`` if it receives no outcome."""
        call.state = DONE
        self._calls.discard(call)
        try:
            if outcome is not None:
                call.receive(outcome)
        finally:
            if call.refresh is not None:
                # Only now: what the answer shows about the secret decides which waiters need the turn.
                self.resume_contenders(self._gates.refreshes.end(call))
            if self._drained is not None and not self._calls and not self._drained.done():
                self._drained.set_result(None)

    def _give_up(self, call: Call, error: Exception) -> None:
        """End a call that a bug leaves in an unknown state, so that nothing waits for it for ever."""
        report_bug(error)
        self.fail(call, error)

    def _ended_attempt(self, call: Call, failure: Failure | None) -> list[Contender]:
        """Release what a refresh holds only during an attempt. Return the contenders that can resume."""
        if call.refresh is None:
            return []
        return self._gates.refreshes.end_attempt(call, provider_failed=provider_failed(failure))
