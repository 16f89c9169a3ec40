"""From document to graph: nodes, collections, inputs and parameters, checked."""
