"""``python -m flowmate_async``: the same as ``flowmate``."""

from flowmate_async.cli.app import main

if __name__ == "__main__":
    main()
