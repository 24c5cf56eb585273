"""How fast this machine fetches credentials: what ``flowmate bench`` and the project's own benchmarks share.

Here are canned answers and a server for them, contenders that fetch one secret again and again, and the
measuring of their rounds. The peers that need other packages, and everything that needs the source tree, are
in ``benchmarks/``.
"""
