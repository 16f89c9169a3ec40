"""What every layer shares: tensor specifications, edge types, events, errors and content keys."""
