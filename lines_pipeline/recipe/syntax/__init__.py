"""From text to document: safe YAML with source locations, extends, overrides, references."""
