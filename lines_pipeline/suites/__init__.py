"""Suites of tasks that models are evaluated on, and the metrics that they give."""
