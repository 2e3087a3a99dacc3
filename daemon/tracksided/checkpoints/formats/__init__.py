"""One file per checkpoint format; `tracksided.checkpoints.formats.catalog` lists them."""
