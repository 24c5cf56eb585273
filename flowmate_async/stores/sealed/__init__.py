"""What stores share that encrypt what they keep: sealing, manifests, paging, changing the key."""
