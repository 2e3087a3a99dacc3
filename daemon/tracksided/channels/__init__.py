"""Where alerts are sent besides the files: Apprise URLs and a command of the user's."""
