"""Chance: which faults strike a request. Seeded, in the order of the requests; nothing acts here."""

from collections import Counter
from random import Random

import msgspec

from .faults import ACCUMULATING, Fault, Faults, Latency, Provider
from .provider_faults import ProviderFault

__all__ = ["Chance", "Due"]


class Due(msgspec.Struct):
    """What strikes one request."""

    delay_seconds: float = 0.0
    changes: list[Fault] = msgspec.field(default_factory=list)
    """Changes of the world."""

    one: Fault | None = None
    """The one fault of those that exclude each other."""


class Chance:
    """Seeded decisions: a generator for each rule, so that no rule disturbs another's sequence.

    `struck` counts by kind what came about.
    """

    __slots__ = ("_draws", "_provider_draws", "_struck")

    def __init__(self, faults: Faults, struck: Counter[str]) -> None:
        draws = [_Draw(rule, f"{faults.seed}/{place}") for place, rule in enumerate(faults.rules)]
        self._draws = [draw for draw in draws if not isinstance(draw.rule, Provider)]
        self._provider_draws = [draw for draw in draws if isinstance(draw.rule, Provider)]
        self._struck = struck

    def due(self, template: str) -> Due:
        """Decide about a request of a route."""
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
        """Decide about a refresh."""
        struck = [draw.rule for draw in self._provider_draws if draw.strikes(None)]
        for rule in struck[:1]:
            self._struck[rule.kind] += 1
            if isinstance(rule, Provider):
                return rule.fault
        return None


class _Draw:
    """One rule, its generator, and how often it was asked and struck."""

    __slots__ = ("_asked", "_struck", "rng", "rule")

    def __init__(self, rule: Fault, mark: str) -> None:
        self.rule = rule
        self.rng = Random(f"{mark}/{rule.kind}")  # noqa: S311 - repeatable on purpose
        self._asked = 0
        self._struck = 0

    def strikes(self, template: str | None) -> bool:
        """Decide; without a template the rule's routes are not asked."""
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
        """Another fault was first: this one has not struck."""
        self._struck -= 1
