"""Runs plans: block evaluation, schedulers, statistics, files and the node cache."""
