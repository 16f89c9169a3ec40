"""Binds a recipe's document into a graph: checks nodes, collections, inputs and parameters."""
