"""The store in age-encrypted files."""
