"""The environment: parsed once, and what is wrong with it said all at once."""

import os
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from nopenai_site import environment
from nopenai_site.environment import PROJECT_ROOT, BadEnvironment


def test_nothing_set_means_the_documented_defaults() -> None:
    loaded = environment.load({})
    assert (loaded.host, loaded.port, loaded.log_level) == ("127.0.0.1", 8080, "INFO")
    assert loaded.data_dir == PROJECT_ROOT / "var"
    assert loaded.models_dirs == (PROJECT_ROOT / "vendor" / "layerModels",)
    assert loaded.starter_model
    assert not loaded.require_api_key
    assert loaded.database_url is None
    assert set(loaded.sources.values()) == {"default"}


def test_an_empty_variable_counts_as_unset() -> None:
    assert environment.load({"NOPENAI_PORT": " "}).port == 8080


def test_relative_paths_are_taken_from_the_project() -> None:
    loaded = environment.load({"NOPENAI_DATA_DIR": "data", "NOPENAI_MODELS_DIR": "a:/b"})
    assert loaded.data_dir == PROJECT_ROOT / "data"
    assert loaded.models_dirs == (PROJECT_ROOT / "a", Path("/b"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://x"),
        ("REDIS_URL", "localhost:6379"),
        ("NOPENAI_PORT", "0"),
        ("NOPENAI_PORT", "65536"),
        ("NOPENAI_PORT", "80.5"),
        ("NOPENAI_PORT", "-1"),
        ("NOPENAI_PORT", "٨٠٨٠"),
        ("NOPENAI_STARTER_MODEL", "maybe"),
        ("NOPENAI_GATEWAY_WORKERS", "0"),
        ("NOPENAI_NODE_RAM_MB", "lots"),
        ("NOPENAI_IDLE_UNLOAD_SEC", "-5"),
        ("NOPENAI_TIME_ZONE", "Mars/Olympus"),
        ("NOPENAI_TIME_ZONE", "../../etc/passwd"),
        ("NOPENAI_LOG_LEVEL", "verbose"),
        ("NOPENAI_PROFILE", "2"),
        ("NOPENAI_RECORD_ARRIVALS", "logs/arrivals"),
        ("NOPENAI_REMOTE_NETWORKS", "localhost"),
        ("NOPENAI_REMOTE_NETWORKS", "10.0.0.1/8"),
    ],
)
def test_a_bad_value_is_refused_with_its_name_and_what_is_allowed(name: str, value: str) -> None:
    with pytest.raises(BadEnvironment, match=rf"^{name}.* is not valid: use "):
        environment.load({name: value})


def test_networks_are_separated_by_commas_or_spaces() -> None:
    loaded = environment.load({"NOPENAI_REMOTE_NETWORKS": "10.0.0.0/8, 127.0.0.1 fd00::/8"})
    assert list(map(str, loaded.remote_networks)) == ["10.0.0.0/8", "127.0.0.1/32", "fd00::/8"]
    assert environment.load({}).remote_networks == ()


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(BadEnvironment) as refusal:
        environment.load({"NOPENAI_PORT": "x", "NOPENAI_LOG_LEVEL": "x"})
    assert len(str(refusal.value).splitlines()) == 2


def test_a_fault_in_a_url_does_not_repeat_its_password() -> None:
    with pytest.raises(BadEnvironment) as refusal:
        environment.load({"DATABASE_URL": "mysql://root:hush@db/x"})
    assert "hush" not in str(refusal.value)


def test_an_open_server_without_keys_is_refused() -> None:
    with pytest.raises(BadEnvironment, match=r"NOPENAI_REQUIRE_API_KEY=0 with NOPENAI_HOST=0\.0\.0\.0"):
        environment.load({"NOPENAI_HOST": "0.0.0.0", "NOPENAI_REQUIRE_API_KEY": "0"})
    assert environment.load({"NOPENAI_HOST": "0.0.0.0"}).require_api_key


def test_sockets_of_a_data_directory_with_a_long_name_fit_where_sockets_must() -> None:
    deep = environment.load({"NOPENAI_DATA_DIR": "/srv/" + "long-name/" * 12})
    for path in (deep.supervisor_socket, deep.web_socket, deep.servers_dir / ".s.PGSQL.5432.lock"):
        assert len(os.fsencode(path)) <= 107
    assert deep.run_dir != environment.load({"NOPENAI_DATA_DIR": "/srv/" + "other-name/" * 12}).run_dir


def test_a_comma_in_the_data_directory_stays_out_of_the_database_url() -> None:
    loaded = environment.load({"NOPENAI_DATA_DIR": "/srv/a,b c%d"})
    assert "," not in environment.embedded_database_url(loaded)
    spaced = environment.load({"NOPENAI_DATA_DIR": "/srv/b c%d"})
    assert conninfo_to_dict(environment.embedded_database_url(spaced))["host"] == "/srv/b c%d/run/servers"
