"""Fault schedule: decides which faults strike a request, seeded and in the order of the requests."""

from collections import Counter
from random import Random

import msgspec

from flowmate_async.sandbox.faults import ACCUMULATING, Fault, Faults, Latency, Provider
from flowmate_async.sandbox.provider_faults import ProviderFault


class Due(msgspec.Struct):
    """The faults that strike one request."""

    delay_seconds: float = 0.0
    changes: list[Fault] = msgspec.field(default_factory=list)
    """Changes of the world."""

    one: Fault | None = None
    """At most one of the mutually exclusive faults."""


class FaultSchedule:
    """Seeded schedule. Each rule has its own generator, so that rules do not affect each other.

    ``struck`` counts the faults that took effect, by kind.
    """

    __slots__ = ("_draws", "_provider_draws", "_struck")

    def __init__(self, faults: Faults, struck: Counter[str]) -> None:
        draws = [_Draw(rule, f"{faults.seed}/{place}") for place, rule in enumerate(faults.rules)]
        self._draws = [draw for draw in draws if not isinstance(draw.rule, Provider)]
        self._provider_draws = [draw for draw in draws if isinstance(draw.rule, Provider)]
        self._struck = struck

    def due(self, template: str) -> Due:
        """Return what strikes the next request of a route."""
        due = Due()
        for draw in self._draws:
            rule = draw.rule
            if not draw.strikes(template):
                continue
            if isinstance(rule, Latency):
                due.delay_seconds += rule.drawn(draw.rng)
            elif isinstance(rule, ACCUMULATING):
                due.changes.append(rule)
            elif due.one is None:
                due.one = rule
            else:
                draw.took_no_effect()
                continue
            self._struck[rule.kind] += 1
        return due

    def provider_fault(self) -> ProviderFault | None:
        """Return the provider fault of the next refresh, if one strikes."""
        struck = [draw.rule for draw in self._provider_draws if draw.strikes(None)]
        for rule in struck[:1]:
            self._struck[rule.kind] += 1
            if isinstance(rule, Provider):
                return rule.fault
        return None


class _Draw:
    """One rule with its generator and counters."""

    __slots__ = ("_asked", "_struck", "rng", "rule")

    def __init__(self, rule: Fault, mark: str) -> None:
        self.rule = rule
        self.rng = Random(f"{mark}/{rule.kind}")  # noqa: S311 - repeatable on purpose
        self._asked = 0
        self._struck = 0

    def strikes(self, template: str | None) -> bool:
        """Return whether the rule strikes now; without a template, whatever its routes."""
        rule = self.rule
        if template is not None and rule.routes and template not in rule.routes:
            return False
        self._asked += 1
        hit = self.rng.random() < rule.share and self._asked > rule.skip
        if not hit or (rule.at_most is not None and self._struck >= rule.at_most):
            return False
        self._struck += 1
        return True

    def took_no_effect(self) -> None:
        """Take a strike back, because another fault came first."""
        self._struck -= 1
