"""The engine: it sends every request of a client, one decision at a time.

Each request is a :class:`~flowmate_async.engine.call.Call`. ``decision.py`` decides the next step of a call,
``engine.py`` carries it out. The other modules are the gates that a call has to pass, and what they learn.
"""
