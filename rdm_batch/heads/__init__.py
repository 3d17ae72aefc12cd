"""Decoding heads: neighbor embeddings and noise in, uint8 images out."""
