"""The store in files that age encrypts."""
