"""Processes on many machines that act as one: Redis coordinates them, Celery hands out the work.

Redis holds nothing that is worth stealing: names are keyed hashes, credentials are sealed, and the broker
carries usernames and run ids only.
"""
