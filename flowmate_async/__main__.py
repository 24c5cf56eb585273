"""``python -m flowmate_async``: the same as ``flowmate``."""

import os
import sys


def _ignore_working_directory() -> None:
    """Undo what ``python -m`` does: a redis.py in the working directory would be imported as the driver."""
    try:
        here = os.getcwd()  # noqa: PTH109 - as Python has put it there
    except OSError:  # the working directory was deleted
        return
    if not sys.flags.safe_path and sys.path[:1] == [here]:
        del sys.path[0]


if __name__ == "__main__":
    _ignore_working_directory()
    from flowmate_async.cli.app import main

    main()
