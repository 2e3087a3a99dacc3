"""``torchrun ... -m tracksided.average DIR``: `trackside average`, its work split over ranks."""

import os
import signal
import sys
from types import FrameType

from tracksided.checkpoints.gloo import GlooGroup
from tracksided.checkpoints.ranks import EXIT_FAILED, Ranks, follow
from tracksided.cli.average import command
from tracksided.descriptors import allow_many_files
from tracksided.errors import RankLost

PROGRAM = "tracksided.average"


def main() -> int:
    """Serve as one rank and return its exit code, which is that of rank 0."""
    if "RANK" not in os.environ:
        return _fail("no RANK is set; start it with torchrun, or use `trackside average`")
    try:
        group = GlooGroup()
    except RankLost as error:
        return _fail(str(error))

    def end_soon(signal_number: int, frame: FrameType | None) -> None:
        """Let the work end at its next chunk, so that rank 0 removes what is half done."""
        del signal_number, frame
        group.end_soon()

    allow_many_files()
    try:
        group.join()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, end_soon)
        return _lead(Ranks(group)) if group.rank == 0 else follow(group)
    except RankLost as error:
        return _fail(f"{error}; the previous average stays") if group.is_first() else EXIT_FAILED


def _lead(ranks: Ranks) -> int:
    """Run the command line at rank 0, and take the others along to the end."""
    exit_code = EXIT_FAILED
    try:
        command.main(prog_name=PROGRAM, obj=ranks)
    except SystemExit as ended:
        exit_code = ended.code if isinstance(ended.code, int) else EXIT_FAILED
    finally:
        ranks.end(exit_code)
    return exit_code


def _fail(message: str) -> int:
    sys.stderr.write(f"trackside average: {message}\n")
    return EXIT_FAILED


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without the teardown of gloo's threads, which now and then aborts
