"""How fast this machine fetches credentials: shared code of ``flowmate bench`` and the project's benchmarks.

This has canned answers and a server for them, contenders that fetch one secret repeatedly, and the timing of
their rounds. Contenders that need other packages, and everything that needs the source tree, are in
``benchmarks/``.
"""
