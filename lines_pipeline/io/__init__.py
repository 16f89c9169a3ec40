"""Checkpoints as bytes at offsets: headers, readers, positional writers, digests, layer maps, locations."""
