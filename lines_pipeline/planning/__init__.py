"""From a typed graph to passes over the data: layouts, levels, bytes, peak memory and explanation."""
