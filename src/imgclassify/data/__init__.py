"""Data: find, fetch, decode and crop pictures, and hand them to the training loop in batches."""
