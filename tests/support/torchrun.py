"""torchrun on this machine alone."""

import sys

# By address: a machine may have no name for itself, nor for localhost; as a bare Debian has not.
TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run", "--rdzv-backend=c10d"),
    *("--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"),
)
