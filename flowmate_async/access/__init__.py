"""Access to one user's credentials: the cache, leases, prefetching, tokens, listings, single flight."""
