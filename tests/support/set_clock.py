"""A wall clock that can be set for some processes.

CLOCK_REALTIME belongs to the whole machine. A library that is preloaded changes what processes
under test are told of it, at any moment. libfaketime, which does the same, makes Python's
``time.sleep`` fail where the monotonic clock is to be left alone.
"""

import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("set_clock.c")
COMPILER = shutil.which("cc")
WHY_NOT = None if COMPILER else "no C compiler here"
_OFFSET = struct.Struct("=q")


class SetClock:
    """The clock of all processes that are started with `environ`."""

    def __init__(self, directory: Path) -> None:
        library = directory / "set_clock.so"
        command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, SOURCE]
        subprocess.run(command, check=True)
        self._file = directory / "clock"
        self._file.write_bytes(_OFFSET.pack(0))
        self.environ = {"LD_PRELOAD": str(library), "SET_CLOCK_FILE": str(self._file)}

    def set(self, offset_s: int) -> None:
        """Set it to the real time plus an offset, from now on."""
        with self._file.open("r+b", buffering=0) as file:
            file.write(_OFFSET.pack(offset_s))
