"""The store in OpenBao or Vault."""
