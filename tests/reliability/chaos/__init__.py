"""Chaos: seeded runs of the real client against the sandbox with all faults, and what must hold after each.

``plan`` draws a run from its seed, ``run`` carries it out and writes a ``record``, ``promises`` judges the
record and nothing else, ``report`` adds records up. ``python -m tests.reliability.chaos`` is the command.
"""
