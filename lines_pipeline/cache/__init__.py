"""The node cache: values, statistics and scores by content, kept within a size."""
