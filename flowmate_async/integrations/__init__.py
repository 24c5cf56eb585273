"""Integrations: credentials attached to the requests of the HTTP client you already use.

Each module is imported by name, since each needs the client it is for: ``integrations.aiohttp``,
``integrations.httpx``. None of them imports ``FlowMate``: they borrow from anything that lends.
"""
