"""The batch job: sweep users, and sync the results into a store."""
