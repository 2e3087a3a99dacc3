"""The bytes between trainer and daemon: layout, segments, rings and typed records. No torch."""
