"""Keeps values, statistics and scores by content, within a size."""
