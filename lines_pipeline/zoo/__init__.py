"""Holds the embedded model zoo: a small vision transformer, 20 glyph-recognition tasks and an expert for each."""
