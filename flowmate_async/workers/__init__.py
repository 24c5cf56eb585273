"""A sync in several processes of one machine: a parent coordinates, workers read and store.

The parent holds the run lock, hands out usernames on demand, lends the rate and collects the users' results.
Each worker has its own event loop, client and store connection; it sends credentials only to the store. The
messages between parent and worker are in ``messages.py``.
"""
