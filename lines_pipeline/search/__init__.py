"""Searches and drivers: they choose (values, soups), the executor makes the models, suites evaluate them."""
