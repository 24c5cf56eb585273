"""The ``flowmate`` command: arguments in, exit code out. The library implements all rules."""
