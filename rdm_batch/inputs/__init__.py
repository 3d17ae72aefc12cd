"""From the names in a spec to the things they mean, each opened once."""
