"""Virtual environments of the peers, one each, so that no peer's dependencies meet ours or another's."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
_ENVIRONMENTS = HERE / "environments"


def python_of(peer: str) -> Path:
    """The interpreter of the peer's environment, made on first use (litellm takes a minute)."""
    requirements = HERE / "peers" / f"requirements-{peer}.txt"
    environment = _ENVIRONMENTS / peer
    python = environment / "bin" / "python"
    installed = environment / "installed.txt"
    wanted = requirements.read_text()
    if not installed.exists() or installed.read_text() != wanted:
        print(f"installing {wanted.strip()} …", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(requirements)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        installed.write_text(wanted)
    return python
