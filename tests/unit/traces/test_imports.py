"""Who traces nothing pays nothing, not even the memory of OpenTelemetry's packages."""

import subprocess
import sys


def test_a_gateway_that_traces_nothing_imports_none_of_opentelemetry() -> None:
    program = (
        "import sys, inference.gateway.app; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_worker_never_does() -> None:
    program = "import sys, inference.engine.__main__; sys.exit(any('opentelemetry' in name for name in sys.modules))"
    subprocess.run([sys.executable, "-c", program], check=True)
