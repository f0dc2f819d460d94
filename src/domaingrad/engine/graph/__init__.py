"""A model's forward and backward pass as one graph: captured, proven, rewritten."""
