"""Shared code of the SQLite and PostgreSQL stores: statements, and the store on top of them."""
