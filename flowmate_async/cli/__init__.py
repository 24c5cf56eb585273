"""The ``flowmate`` command: arguments in, exit code out. Every rule it follows is the library's."""
