"""An operator's command finds the server that runs, whatever shell the server's settings were given in."""

import json
import os
from pathlib import Path

import pytest

from nopenai_site import environment, running
from nopenai_site.running import NotDecided, Running, missing_settings
from nopenai_site.up.locks import lock_installation

LAB = Running(pid=11, data_dir="/srv/lab", port=9000, given={"NOPENAI_DATA_DIR": "/srv/lab", "NOPENAI_PORT": "9000"})
USUAL = Running(pid=12, data_dir="/srv/var", port=8080, given={})


def test_a_bare_command_means_the_only_server_that_runs() -> None:
    assert missing_settings({}, [LAB]) == (LAB, LAB.given)


def test_nothing_is_missing_when_nothing_runs_or_the_defaults_do() -> None:
    assert missing_settings({}, []) == (None, {})
    assert missing_settings({}, [USUAL]) == (USUAL, {})


def test_a_data_directory_alone_leads_to_the_other_settings() -> None:
    assert missing_settings({"NOPENAI_DATA_DIR": "/srv/lab"}, [USUAL, LAB]) == (LAB, {"NOPENAI_PORT": "9000"})


@pytest.mark.parametrize(
    "variables",
    [{"NOPENAI_DATA_DIR": "/srv/other"}, {"NOPENAI_PORT": "9001"}, {"DATABASE_URL": "postgresql://elsewhere/nopenai"}],
)
def test_what_the_environment_says_is_never_overruled(variables: dict[str, str]) -> None:
    assert missing_settings(variables, [LAB]) == (None, {})


def test_an_empty_variable_says_nothing() -> None:
    assert missing_settings({"NOPENAI_DATA_DIR": " "}, [LAB])[0] == LAB


def test_of_several_servers_none_is_guessed_and_each_is_named_with_what_to_give() -> None:
    with pytest.raises(NotDecided, match=r"NOPENAI_DATA_DIR=/srv/var .*pid 12.*\n.*NOPENAI_DATA_DIR=/srv/lab"):
        missing_settings({}, [USUAL, LAB])


def test_a_database_of_the_operators_own_must_be_given_again() -> None:
    own = Running(pid=13, data_dir="/srv/own", port=8080, given={}, withheld=("DATABASE_URL",))
    with pytest.raises(NotDecided, match="pid 13 was given DATABASE_URL"):
        missing_settings({}, [own])
    assert missing_settings({"DATABASE_URL": "postgresql://elsewhere/nopenai"}, [own]) == (own, {})


def test_what_is_written_down_holds_no_secret_and_is_for_us_alone(tmp_path: Path) -> None:
    variables = {
        "NOPENAI_DATA_DIR": str(tmp_path / "data"),
        "NOPENAI_PORT": "9000",
        "NOPENAI_ADMIN_PASSWORD": "hunter2",
        "DATABASE_URL": "postgresql://user:hunter2@host/nopenai",
    }
    record = running.announce(environment.load(variables), variables, pid=7, records=tmp_path / "var" / "running")
    assert "hunter2" not in record.read_text()
    assert json.loads(record.read_text())["withheld"] == ["DATABASE_URL"]
    assert record.parent.stat().st_mode & 0o077 == 0


def test_a_server_is_found_while_it_holds_its_data_directory(tmp_path: Path) -> None:
    records, data_dir = tmp_path / "var" / "running", tmp_path / "data"
    data_dir.mkdir()
    variables = {"NOPENAI_DATA_DIR": str(data_dir)}
    running.announce(environment.load(variables), variables, pid=os.getpid(), records=records)
    assert running.found(records) == []
    held = lock_installation(data_dir)
    assert [one.data_dir for one in running.found(records)] == [str(data_dir)]
    os.close(held)
    assert running.found(records) == []


def test_records_of_servers_that_were_killed_go_with_the_next_start(tmp_path: Path) -> None:
    records = tmp_path / "var" / "running"
    variables = {"NOPENAI_DATA_DIR": str(tmp_path / "data")}
    running.announce(environment.load(variables), variables, pid=7, records=records)
    (records / "8.json").write_text('{"pid": 8, "data')
    running.announce(environment.load(variables), variables, pid=9, records=records)
    assert [record.name for record in records.iterdir()] == ["9.json"]
