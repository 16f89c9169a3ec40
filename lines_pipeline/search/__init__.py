"""Drivers above the engine: they choose (values, soups), the engine merges, suites evaluate."""
