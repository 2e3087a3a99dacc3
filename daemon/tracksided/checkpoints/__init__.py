"""Checkpoint averaging: find, check, average and publish, without torch and without unpickling."""
