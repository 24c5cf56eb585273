"""Shared code of stores that encrypt client-side: sealing, manifests, paging, key changes."""
