"""What a start tells the operator."""

from nopenai_site import environment
from nopenai_site.up import report


def _environment(**variables: str) -> environment.Environment:
    return environment.load(variables)


def test_every_setting_is_shown_with_where_it_came_from() -> None:
    text = report.settings(_environment(NOPENAI_PORT="9000"))
    (port,) = [line for line in text.splitlines() if "NOPENAI_PORT" in line]
    (host,) = [line for line in text.splitlines() if "NOPENAI_HOST" in line]
    assert port.split() == ["NOPENAI_PORT", "9000", "environment"]
    assert host.split() == ["NOPENAI_HOST", "127.0.0.1", "default"]
    ours = {name for name in _environment().sources if not name.startswith("OTEL_")}
    assert {line.split()[0] for line in text.splitlines()[1:]} == ours | {"OTEL_EXPORTER_OTLP_ENDPOINT"}


def test_it_says_where_traces_go() -> None:
    text = report.settings(_environment(OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318"))
    assert "http://collector:4318/v1/traces" in text
    assert "no traces" in report.settings(_environment())


def test_secrets_are_masked_wherever_they_stand() -> None:
    text = report.settings(
        _environment(
            DATABASE_URL="postgresql://me:hush@db/x?password=hush&sslmode=require",
            REDIS_URL="redis://:hush@broker:6379/0",
            NOPENAI_ADMIN_PASSWORD="hush",
        )
    )
    assert "hush" not in text
    assert "postgresql://me:********@db/x?password=********&sslmode=require" in text
    assert "redis://:********@broker:6379/0" in text


def test_the_request_to_copy_is_the_guides() -> None:
    assert report.serving(_environment(), seconds=1.2).splitlines()[4:10] == [
        "  curl http://localhost:8080/v1/chat/completions \\",
        '    -H "Content-Type: application/json" \\',
        "    -d '{",
        '      "model": "auto",',
        '      "messages": [{"role": "user", "content": "Hello!"}]',
        "    }'",
    ]


def test_where_keys_are_required_the_request_has_one_and_says_how_to_make_it() -> None:
    text = report.serving(_environment(NOPENAI_HOST="0.0.0.0"), seconds=1.2)
    assert "Authorization: Bearer $NOPENAI_KEY" in text
    assert "manage.py keys create" in text


def test_an_address_of_the_network_is_named_as_it_is() -> None:
    assert report.address(_environment(NOPENAI_HOST="192.0.2.7", NOPENAI_PORT="9000")) == "http://192.0.2.7:9000"
    assert report.address(_environment(NOPENAI_HOST="2001:db8::1")) == "http://[2001:db8::1]:8080"
    assert report.address(_environment(NOPENAI_HOST="::1")) == "http://localhost:8080"


def test_a_password_is_shown_only_if_it_was_drawn() -> None:
    assert "x7Gk" in report.login("admin", "x7Gk")
    assert "NOPENAI_ADMIN_PASSWORD" in report.login("admin", None)


def test_a_server_that_is_not_well_says_why() -> None:
    text = report.serving(_environment(), seconds=1.2, reasons=["No model can answer: put a GGUF into x"])
    assert "runs, but is not well, after 1.2 s" in text
    assert "  - No model can answer: put a GGUF into x" in text
