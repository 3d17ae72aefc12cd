"""Images or embeddings to a retrieval database: built, imported, described, checked."""
