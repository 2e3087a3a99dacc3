"""What is taken from a training step: attention, gradients, scalars."""
