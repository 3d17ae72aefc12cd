"""Image sources: the synthetic shapes world, image folders, parquet."""
