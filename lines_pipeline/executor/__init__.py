"""Runs plans: reads, evaluates and writes blocks, gathers statistics, and makes whole files."""
