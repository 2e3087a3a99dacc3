"""Rules that look at steps and at the machine, and the desk that makes alerts of what they find."""
