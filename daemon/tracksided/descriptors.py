"""Room for many open files: segments and runs, and every shard of every checkpoint at once."""

import resource

ENOUGH = 1 << 16  # 100 checkpoints of 600 shards, or some ten thousand segments


def allow_many_files() -> None:
    """Raise this process's own limit of open files as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
