"""Makes models, has suites evaluate them, and remembers the scores."""
