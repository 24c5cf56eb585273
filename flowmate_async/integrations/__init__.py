"""Integrations: attach credentials to the requests of the HTTP client you already use.

Import each module by name, since each needs its own client library: ``integrations.aiohttp``,
``integrations.httpx``. None of them imports ``FlowMate``: they accept any lender.
"""
