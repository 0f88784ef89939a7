"""The version is said in two places."""

import tomllib

from nopenai_site.environment import PROJECT_ROOT
from nopenai_site.version import VERSION, build


def test_the_version_is_the_projects() -> None:
    with (PROJECT_ROOT / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["version"] == VERSION


def test_a_build_names_what_it_is_made_of() -> None:
    assert build().keys() == {"version", "python", "llama_cpp_python"}
