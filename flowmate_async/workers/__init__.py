"""A sync in several processes of one machine: one parent that coordinates, workers that read and store.

The parent holds the run lock, hands out usernames on demand, lends the rate and gathers how users ended.
Each worker has an event loop, a client and a connection to the store of its own; credentials never leave it
but for the store. What parent and worker say to each other is in ``messages.py``.
"""
