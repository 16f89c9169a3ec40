"""The typed graph of steps, and its picture."""
