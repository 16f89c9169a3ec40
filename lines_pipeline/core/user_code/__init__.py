"""Python of the user's own: identified by the content of its files without running it, and run at home."""
