"""Reads text into a document: safe YAML with source locations, extends, overrides, references."""
