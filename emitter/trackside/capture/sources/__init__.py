"""One file per kind of attention call."""
