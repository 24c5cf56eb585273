"""``python -m flowmate_async``: the same as ``flowmate``."""

import sys

if __name__ == "__main__":
    # Python has put the working directory first: a redis.py there would be imported instead of the driver.
    if not sys.flags.safe_path:
        del sys.path[0]
    from flowmate_async.cli.app import main

    main()
