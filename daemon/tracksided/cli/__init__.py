"""The `trackside` command: one file per subcommand; the only place that prints."""
