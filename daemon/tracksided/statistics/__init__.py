"""Numbers of a step: one file per statistic or per family of related ones."""
