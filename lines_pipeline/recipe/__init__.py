"""Reads the recipe language: a file becomes a typed graph of nodes."""
