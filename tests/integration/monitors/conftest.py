"""A fake NVML: a real shared object that pynvml loads by NVML's own name."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "support" / "fake_nvml.c"


@pytest.fixture(scope="session")
def nvml_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the library."""
    if shutil.which("cc") is None:
        pytest.skip("building a fake NVML needs a C compiler")
    directory = tmp_path_factory.mktemp("nvml")
    library = directory / "libnvidia-ml.so.1"
    flags = ["-std=c99", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Werror", "-shared", "-fPIC"]
    subprocess.run(["cc", *flags, "-o", library, SOURCE], check=True)
    return directory


@pytest.fixture
def set_gpus(
    nvml_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Say what NVML shows to processes that are started from now on."""
    state = tmp_path / "gpus"
    monkeypatch.setenv("LD_LIBRARY_PATH", str(nvml_dir))
    monkeypatch.setenv("FAKE_NVML", str(state))

    def change(lines: str) -> None:
        state.with_suffix(".new").write_text(lines)
        state.with_suffix(".new").replace(state)

    change("")
    return change
