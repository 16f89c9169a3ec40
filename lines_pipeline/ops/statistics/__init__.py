"""Statistics of whole models that several methods need: thresholds, sign election, norms."""
