"""Shared code of stores that keep one document per user in a service that encrypts server-side."""
