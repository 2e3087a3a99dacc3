"""Callbacks and trackers for training frameworks; each module needs the framework of its name."""
