"""Data: find, fetch, decode and cut pictures, and hand them to the training loop in batches."""
