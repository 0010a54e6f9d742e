"""Methods against each other on the same cells, and what comes of it."""
