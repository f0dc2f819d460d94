"""Agreement in the loops of other libraries, a module for each; none of them is imported."""
