"""Suites of tasks that models are judged on, and the metrics they give."""
