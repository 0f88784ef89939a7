"""The installation's secret key is made by what serves, and only read by everything else."""

from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from nopenai_site.secret_key import secret_key, secret_key_make


def test_it_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    secret_key_make(tmp_path / "data")
    first = secret_key(tmp_path / "data")
    secret_key_make(tmp_path / "data")
    assert len(first) >= 50 and secret_key(tmp_path / "data") == first
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["secret_key"]
    assert (tmp_path / "data" / "secret_key").stat().st_mode & 0o077 == 0


def test_reading_makes_none_and_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"{tmp_path / 'data'} has no secret key"):
        secret_key(tmp_path / "data")
    assert not (tmp_path / "data").exists()
