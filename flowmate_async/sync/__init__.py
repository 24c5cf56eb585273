"""The batch job: sweeping users, and syncing what the sweep brings into a store."""
