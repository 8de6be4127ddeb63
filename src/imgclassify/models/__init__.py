"""Models: network architectures, what makes them fast, and how they are computed."""
