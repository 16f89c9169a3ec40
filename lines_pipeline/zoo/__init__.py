"""Holds the model zoos: glyphs, which is embedded, and texts, which is built of packages."""
