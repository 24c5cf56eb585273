"""Stores: where credentials and the progress of runs are kept.

They implement the small protocol in ``base.py``. Importing this package imports no driver.
"""

from flowmate_async.stores.base import Checkpoint as Checkpoint
from flowmate_async.stores.base import Missing as Missing
from flowmate_async.stores.base import Removal as Removal
from flowmate_async.stores.base import Run as Run
from flowmate_async.stores.base import RunTotals as RunTotals
from flowmate_async.stores.base import Status as Status
from flowmate_async.stores.base import Store as Store
from flowmate_async.stores.base import StoredItem as StoredItem
from flowmate_async.stores.base import UserWrite as UserWrite
from flowmate_async.stores.base import Verification as Verification
from flowmate_async.stores.base import Written as Written
from flowmate_async.stores.kept_tokens import KeepsTokens as KeepsTokens
from flowmate_async.stores.keys import StoreKey as StoreKey
from flowmate_async.stores.keys import load_key as load_key
from flowmate_async.stores.keys import load_other_key as load_other_key
from flowmate_async.stores.keys import read_key_file as read_key_file
from flowmate_async.stores.keys import write_key_file as write_key_file
from flowmate_async.stores.registry import needs_key as needs_key
from flowmate_async.stores.registry import open_store as open_store
from flowmate_async.stores.run_history import ListsRuns as ListsRuns

__all__ = [
    "Checkpoint",
    "KeepsTokens",
    "ListsRuns",
    "Missing",
    "Removal",
    "Run",
    "RunTotals",
    "Status",
    "Store",
    "StoreKey",
    "StoredItem",
    "UserWrite",
    "Verification",
    "Written",
    "load_key",
    "load_other_key",
    "needs_key",
    "open_store",
    "read_key_file",
    "write_key_file",
]
