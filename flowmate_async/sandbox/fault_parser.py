"""Fault parser: reads the text form of faults, as the command line takes it.

    reset=0.01; latency seconds=0.05 distribution=exponential; throttle=0.1 at_most=3 @ GET /secrets/

Rules are separated by ``;``: a kind with its share, fields with their values, and routes after ``@``,
separated by ``|``. A text that begins with ``{`` is the JSON of ``Faults``.
"""

from typing import Any

import msgspec

from flowmate_async.sandbox.faults import KINDS, Fault, Faults


def faults_from_text(text: str, *, seed: int = 0) -> Faults:
    """Read faults as the command line takes them.

    Args:
        text: rules separated by ``;``, as ``reset=0.01; throttle=0.1 @ GET /secrets/``; or the JSON of
            ``Faults``, which brings its own seed.
        seed: the seed of all random decisions.

    Raises:
        ValueError: says what is wrong with the text.
    """
    if text.lstrip().startswith("{"):
        return msgspec.json.decode(text, type=Faults)
    rules = [_rule(part) for part in text.split(";") if part.strip()]
    return Faults(seed=seed, rules=tuple(rules))


def _rule(text: str) -> Fault:
    described, _, routes = text.partition("@")
    first, *rest = described.split() or [""]
    kind, _, share = first.partition("=")
    if kind not in KINDS:
        raise ValueError(f"unknown kind of fault {kind!r}; there are {', '.join(KINDS)}")
    given: dict[str, Any] = {"kind": kind}
    if share:
        given["share"] = share
    for word in rest:
        name, parted, value = word.partition("=")
        if not parted:
            raise ValueError(f"{word!r} in {text.strip()!r} is not field=value")
        given[name] = value
    if routes.strip():
        given["routes"] = [route.strip() for route in routes.split("|")]
    try:
        # Not strict, because numbers are text on a command line.
        rule: Fault = msgspec.convert(given, Fault, strict=False)
    except msgspec.ValidationError as problem:
        raise ValueError(f"{text.strip()!r}: {problem}") from None
    return rule
