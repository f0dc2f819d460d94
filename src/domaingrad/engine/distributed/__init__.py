"""Agreement among processes: rows of gradients to shards, the rule there, updates back."""
