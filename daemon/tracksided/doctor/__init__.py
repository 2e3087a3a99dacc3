"""What `trackside doctor` looks at: facts are gathered once, checks are pure."""
