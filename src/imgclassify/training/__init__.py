"""Training: the one training loop, its optimizers, and what turns a recipe and data into a classifier."""
