"""The engine: it sends every request of a client, one decision at a time.

A request under way is a :class:`~flowmate_async.engine.call.Call`. ``decision.py`` says what happens next to
a call, ``engine.py`` does it. The other modules are the gates that a call has to pass, and what they learn.
"""
