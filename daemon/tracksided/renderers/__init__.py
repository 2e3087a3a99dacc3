"""Pictures of a step: one file per word of ``visualize``, and what they draw with."""
