# ruff: noqa: INP001 - a script, not part of a package
"""Makes the pictures of README and docs that show runs: `make pictures`.

    python examples/pictures.py                       # into docs/images, minutes on two cores
    python examples/pictures.py quickstart report     # some of them
    python examples/pictures.py demo --out DIR --steps 60

Each comes from what a reader can type as well:

    demo        attention.png: one layer of `trackside demo`, after its last step
    quickstart  quickstart_step_10.png, quickstart_step_100.png: the script of docs/quickstart.md
    report      training_progress.png: `trackside report` of examples/logs/copying
    page        page.png: the live page of two trainings, by examples/page_picture.py

The others have commands of their own: `make performance` (growth.png), and
`python benchmarks/averaging_helps.py --plot FILE` (averaging_helps.png).
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tracksided.cli.demo import DEFAULT_STEPS

ROOT = Path(__file__).parents[1]
DEFAULT_OUT = ROOT / "docs" / "images"
TRACKSIDE = (sys.executable, "-m", "tracksided")
SCRIPT = re.compile(r'^```python title="train.py"\n(.*?)^```', re.DOTALL | re.MULTILINE)

Made = Mapping[str, Path]
"""Names in docs/images, and where the pictures are."""


def of_demo(work: Path, steps: int) -> Made:
    """Run the guided tour."""
    out = work / "demo"
    run(*TRACKSIDE, "demo", "--out", out, "--steps", steps, directory=work)
    folders = (out / "run").glob("step_*")
    last = max(folders, key=lambda path: int(path.name.removeprefix("step_")))
    return {"attention.png": last / "decoder_layer1_self_attn_heads.png"}


def of_quickstart(work: Path, steps: int) -> Made:
    """Follow the page, which says how many steps it takes."""
    del steps
    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    (script,) = SCRIPT.findall(page)
    (work / "train.py").write_text(script, encoding="utf-8")
    run(*TRACKSIDE, "run", "--", sys.executable, "train.py", directory=work)
    (written,) = (work / "trackside_logs").iterdir()
    return {
        f"quickstart_step_{step}.png": written / f"step_{step}" / "encoder_layer0_self_attn.png"
        for step in (10, 100)
    }


def of_report(work: Path, steps: int) -> Made:
    """Draw a log that is in the repository."""
    del steps
    picture = work / "training_progress.png"
    log = ROOT / "examples" / "logs" / "copying"
    run(*TRACKSIDE, "report", "-c", log, "-s", picture, directory=work)
    return {picture.name: picture}


def of_page(work: Path, steps: int) -> Made:
    """Train twice, and take a picture of the page that shows it."""
    picture = work / "page.png"
    script = ROOT / "examples" / "page_picture.py"
    run(sys.executable, script, "--out", picture, "--steps", steps, directory=work)
    return {picture.name: picture}


MAKERS: Mapping[str, Callable[[Path, int], Made]] = {
    "demo": of_demo,
    "quickstart": of_quickstart,
    "report": of_report,
    "page": of_page,
}


def run(*command: str | Path | int, directory: Path) -> None:
    """Run a command to its end, which has to be a good one."""
    subprocess.run([str(word) for word in command], cwd=directory, check=True)


def main() -> None:
    """Make the pictures that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MAKERS)}")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument(
        "--steps", type=int, default=DEFAULT_STEPS, help="of the demo and of the page"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(MAKERS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; known are {', '.join(MAKERS)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or MAKERS:
        with tempfile.TemporaryDirectory() as work:
            for picture, source in MAKERS[name](Path(work), arguments.steps).items():
                shutil.copyfile(source, arguments.out / picture)
                print(arguments.out / picture)  # noqa: T201 - it is a script


if __name__ == "__main__":
    main()
