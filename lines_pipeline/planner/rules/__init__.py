"""Rules that make a plan cheaper, each a function from plan to plan."""
