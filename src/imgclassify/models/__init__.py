"""Models: network architectures, faster layers for training, and prediction."""
