"""Reads and writes checkpoints as bytes at offsets: headers, readers, writers, digests, layer maps, locations."""
