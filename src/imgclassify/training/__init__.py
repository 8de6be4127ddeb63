"""Training: the training loop, its optimizers, and how a recipe and data become a classifier."""
