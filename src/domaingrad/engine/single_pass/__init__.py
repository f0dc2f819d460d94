"""One forward and backward pass for all units (domains, samples) of a batch."""
