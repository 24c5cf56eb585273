"""Durations on the command line: 90m, 36h, 7d, 2w."""

UNITS = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


def seconds_of(text: str) -> float | None:
    """Return a duration in seconds; ``None`` if the text is not one.

    Args:
        text: a number and its unit.
    """
    try:
        seconds = float(text[:-1]) * UNITS[text[-1:]]
    except (ValueError, KeyError):
        return None
    return seconds if 0 <= seconds < float("inf") else None
