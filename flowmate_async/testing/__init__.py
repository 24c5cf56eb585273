"""Helpers for testing code that uses or extends the library: public, never imported by the library."""
