"""The server gets along with what ``deploy/requirements.lock`` installs, which is less than the tests have."""

import re
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest

from nopenai_site.environment import PROJECT_ROOT

# Finds none of the modules named on the command line, then runs the rest of it.
_BLOCKED = """
import importlib.machinery, sys
blocked = set(sys.argv[1].split())
class Without(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in blocked else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Without
exec(sys.argv[2])
"""


@pytest.mark.parametrize(
    "process",
    [
        "import nopenai_site.wsgi",
        "import nopenai_site.gateway, nopenai_site.gateway_worker, nopenai_site.gunicorn_gateway",
        "import nopenai_site.gunicorn_web",
        "from nopenai_site.celery import app; app.loader.import_default_modules(); app.connection().transport",
        "import django; django.setup(); import inference.supervisor.supervisor, inference.supervisor.server",
        "import inference.engine.server, inference.engine.engine, inference.engine.llama",
        "import nopenai_site.up.command",
    ],
)
def test_no_process_imports_what_only_the_tests_install(process: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _BLOCKED, " ".join(_only_for_tests()), process],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def _only_for_tests() -> list[str]:
    locked = set(re.findall(r"^([\w.-]+)==", (PROJECT_ROOT / "deploy/requirements.lock").read_text(), re.MULTILINE))
    # What every virtual environment has.
    locked |= {"pip", "setuptools"}
    return [
        module
        for module, distributions in packages_distributions().items()
        if not {re.sub(r"[-_.]+", "-", name).lower() for name in distributions} & locked
    ]
