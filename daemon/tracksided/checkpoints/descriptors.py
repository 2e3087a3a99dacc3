"""Room for many open files: every shard of every checkpoint is held open at once."""

import resource

ENOUGH = 65_536  # 100 checkpoints of 600 shards


def allow_many_files() -> None:
    """Raise this process's own limit of open files as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
