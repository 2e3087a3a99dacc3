"""From segments in shared memory to all local ranks of a step."""
