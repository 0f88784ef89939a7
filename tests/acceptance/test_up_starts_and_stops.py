"""``manage.py up``: what it says, what it refuses, and that nothing outlives it."""

import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from nopenai_site import environment
from nopenai_site.environment import PROJECT_ROOT
from nopenai_site.up.installation import SETTLE_SECONDS
from tests.installation import Installation, LogRecord
from tests.services import running_services
from tests.waiting import wait_until

Maker = Callable[..., Installation]


def test_a_start_says_what_is_in_force_and_shows_a_request_to_copy(installation: Installation) -> None:
    report = installation.output
    assert ["NOPENAI_PORT", str(installation.port), "environment"] in [line.split() for line in report.splitlines()]
    assert "embedded" in report
    assert f"curl http://localhost:{installation.port}/v1/chat/completions" in report
    assert '"model": "auto"' in report


def test_the_data_directory_is_private(installation: Installation) -> None:
    assert stat.S_IMODE(installation.data_dir.stat().st_mode) == 0o700


def test_every_line_of_the_log_is_an_object_with_the_promised_fields(installation: Installation) -> None:
    question = {"model": "auto", "max_tokens": 1, "messages": [{"role": "user", "content": "Hello!"}]}
    assert installation.post("/v1/chat/completions", question)[0] == 200
    installation.wait_for_log(lambda record: record["module"] == "engine")
    records = installation.log_records()
    assert records
    for record in records:
        assert {"timestamp", "level", "module", "message"} <= record.keys()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["timestamp"])
        assert record["level"] in {"DEBUG", "INFO", "WARN", "ERROR", "FATAL"}


def test_a_second_up_on_the_same_data_directory_says_so_and_leaves(
    installation: Installation, own_installation: Maker
) -> None:
    second = own_installation(NOPENAI_DATA_DIR=str(installation.data_dir))
    second.start()
    assert second.wait_exit() == 3
    assert f"running already with the data directory {installation.data_dir} (pid {installation.pid})" in second.errors
    assert installation.get("/health/ready")[0] == 200


def test_a_port_in_use_is_named_with_the_way_out(own_installation: Maker) -> None:
    refused = own_installation()
    with socket.create_server(("127.0.0.1", refused.port)):
        refused.start()
        assert refused.wait_exit() == 4
    assert f"Port {refused.port} on 127.0.0.1 is in use" in refused.errors
    assert "NOPENAI_PORT=" in refused.errors


def test_bad_settings_are_all_named_before_anything_starts(own_installation: Maker) -> None:
    refused = own_installation(NOPENAI_PORT="eighty", NOPENAI_LOG_LEVEL="LOUD", DATABASE_URL="mysql://root:secret@db/x")
    refused.start()
    assert refused.wait_exit() == 2
    for name in ("NOPENAI_PORT=eighty", "NOPENAI_LOG_LEVEL=LOUD", "DATABASE_URL is not valid"):
        assert name in refused.errors
    assert "secret" not in refused.errors
    assert not refused.data_dir.exists()


def test_a_database_that_does_not_answer_is_named_and_nothing_is_left(own_installation: Maker) -> None:
    refused = own_installation(DATABASE_URL="postgresql://someone:secret@127.0.0.1:9/x")
    refused.start()
    assert refused.wait_exit() == 5
    assert "Check DATABASE_URL" in refused.errors
    assert "secret" not in refused.errors + refused.output
    refused.wait_gone()


def test_a_broker_that_does_not_answer_is_named_too(own_installation: Maker) -> None:
    refused = own_installation(REDIS_URL="redis://:secret@127.0.0.1:9/0")
    refused.start()
    assert refused.wait_exit() == 5
    assert "Check REDIS_URL" in refused.errors
    assert "secret" not in refused.errors + refused.output
    assert refused.processes() == {}


def test_with_servers_of_the_operators_own_none_is_embedded(own_installation: Maker, tmp_path: Path) -> None:
    elsewhere = environment.load({"NOPENAI_DATA_DIR": str(tmp_path / "elsewhere")})
    with running_services(elsewhere):
        installation = own_installation(
            DATABASE_URL=environment.embedded_database_url(elsewhere),
            REDIS_URL=environment.embedded_redis_url(elsewhere),
        )
        installation.start()
        installation.wait_started()
        assert installation.children("postgres") == installation.children("redis") == []
        assert installation.get("/health/ready")[0] == 200
        assert installation.stop() == 0


def test_ctrl_c_stops_everything_and_the_next_start_needs_no_password(own_installation: Maker) -> None:
    installation = own_installation()
    installation.start()
    installation.wait_started()
    assert "the administrator is admin, the password " in installation.output
    assert installation.stop(signal.SIGINT) == 0
    assert installation.processes() == {}
    assert [record for record in installation.log_records() if record["level"] not in ("DEBUG", "INFO")] == []
    installation.start()
    installation.wait_started()
    assert "administrator" not in installation.output


def test_ctrl_c_while_it_starts_stops_it_too(own_installation: Maker) -> None:
    installation = own_installation()
    installation.start()
    wait_until(lambda: "postgres" in {r["module"] for r in installation.log_records()}, 30)
    assert installation.stop(signal.SIGINT) == 0
    assert installation.processes() == {}


def test_the_doctor_finds_nothing_to_do_on_a_running_installation(installation: Installation) -> None:
    examined = installation.command("doctor")
    assert examined.returncode == 0, examined.stdout + examined.stderr
    for subject in ("database: PostgreSQL", "migrations: all", "broker: Redis", "supervisor:", "web:", "gateway:"):
        assert f"ok    {subject}" in examined.stdout


def test_a_command_from_another_shell_learns_the_servers_settings(installation: Installation) -> None:
    given = {"PATH": installation.environment["PATH"], "NOPENAI_DATA_DIR": str(installation.data_dir)}
    examined = subprocess.run(
        [sys.executable, "manage.py", "doctor"], cwd=PROJECT_ROOT, env=given, capture_output=True, text=True, timeout=60
    )
    assert f"gateway: {installation.url} is ready" in examined.stdout
    (said,) = [line for line in examined.stderr.splitlines() if line.startswith("With the settings of the server")]
    assert f"pid {installation.pid}:" in said and f"NOPENAI_PORT={installation.port}" in said


def test_the_doctor_names_each_fault_with_what_to_do(own_installation: Maker) -> None:
    absent = own_installation(NOPENAI_STARTER_MODEL="0")
    absent.data_dir.mkdir(mode=0o755)
    examined = absent.command("doctor")
    assert examined.returncode == 1
    assert f"fault data directory: others may look into {absent.data_dir}\n      → chmod 700" in examined.stdout
    assert f"fault up: no server runs with the data directory {absent.data_dir}" in examined.stdout
    assert "fault models: there is none to serve\n      → Put a GGUF into" in examined.stdout


def test_without_any_model_it_starts_and_says_what_to_do(own_installation: Maker) -> None:
    installation = own_installation(NOPENAI_STARTER_MODEL="0", NOPENAI_LOG_LEVEL="DEBUG")
    installation.start()
    installation.wait_started()
    assert "No model can answer: put a GGUF into" in installation.output
    # The admin, where a model is added, does not wait for one.
    waited = _seconds(installation.wait_for_message("Started web")) - _seconds(
        installation.wait_for_message("gateway is ready")
    )
    assert waited < SETTLE_SECONDS


def test_sockets_outside_the_data_directory_are_not_left_behind(own_installation: Maker) -> None:
    installation = own_installation()
    data_dir = installation.data_dir / ("long" * 25)
    installation.environment["NOPENAI_DATA_DIR"] = str(data_dir)
    run_dir = environment.load({"NOPENAI_DATA_DIR": str(data_dir)}).run_dir
    installation.start()
    installation.wait_ready()
    assert not run_dir.is_relative_to(data_dir) and run_dir.exists()
    assert installation.stop() == 0
    assert not run_dir.exists()


def _seconds(record: LogRecord) -> float:
    return datetime.fromisoformat(record["timestamp"]).timestamp()
