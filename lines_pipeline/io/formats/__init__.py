"""File formats of checkpoints, one a module: what is in a file, and what has to be refused."""
