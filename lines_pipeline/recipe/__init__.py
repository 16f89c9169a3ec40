"""The recipe language: safe YAML with places, references, schema, and the typed graph of nodes."""
