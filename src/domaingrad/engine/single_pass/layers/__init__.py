"""Layers whose weight gradients are known unit by unit."""
