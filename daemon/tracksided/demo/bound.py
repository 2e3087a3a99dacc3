"""Run a module as ``python -m`` does, in a process that ends with its parent.

python -m tracksided.demo.bound PARENT_PID MODULE [ARGUMENT ...]
"""

import runpy
import sys

from tracksided.priority import die_with


def main() -> None:
    """Bind this process to its parent, then become the module."""
    _, parent, module, *arguments = sys.argv
    die_with(int(parent))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
