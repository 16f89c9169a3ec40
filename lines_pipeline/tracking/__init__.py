"""Sinks of a run's events: MLflow, JSON lines, and progress on the console. They never touch the executor."""
