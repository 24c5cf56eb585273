"""Processes on many machines that act as one: Redis coordinates them, Celery distributes the work.

Redis holds nothing worth stealing: names are keyed hashes, credentials are sealed, and the broker carries
only usernames and run ids.
"""
