"""From a typed graph to stages over the data: schemas, statistics, tasks, bytes, peak memory and explanation."""
