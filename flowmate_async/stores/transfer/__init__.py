"""Credentials from one store to another, to exports and from them."""
