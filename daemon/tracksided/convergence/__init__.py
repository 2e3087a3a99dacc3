"""What the curves of a run say: trends, convergence, health of gradients, skew of ranks. Pure."""
