"""The recipe language: from a file to a typed graph of nodes."""
