"""Object stores, sample sets and their manifests."""
