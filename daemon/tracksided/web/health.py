"""``/health``: does the daemon move?"""

from typing import Any

from tracksided.status_file import SILENT_S
from tracksided.web.served import Served


def health(served: Served | None, silent_s: float | None) -> tuple[bool, dict[str, Any]]:
    """Judge the daemon's last sign of life.

    Args:
        served: what the daemon says; None where it says nothing.
        silent_s: seconds since then.

    Returns:
        Whether all is well, and the answer's JSON object.
    """
    if served is None or silent_s is None:
        reason = "the daemon has written no status: it is starting, or has ended"
        return False, {"status": "failing", "reason": reason}
    answer: dict[str, Any] = {
        "status": "ok",
        "pid": served.pid,
        "version": served.version,
        "seconds_since_update": round(silent_s, 1),
        "runs": len(served.runs),
        "problems": [
            f"run {run.run}: {run.problem}" for run in served.runs if run.problem is not None
        ],
    }
    if silent_s < SILENT_S:
        return True, answer
    reason = (
        f"the daemon (pid {served.pid}) gave its last sign of life {silent_s:.0f} s ago: it is "
        f"stopped or starved, or shared memory is full; see `trackside doctor`"
    )
    return False, {**answer, "status": "failing", "reason": reason}
