"""Many sample sets beside each other: planned, made by one set of heads, compared in pairs."""
