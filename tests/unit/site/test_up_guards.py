"""What ``up`` checks before it starts anything."""

import os
import socket
import stat
from pathlib import Path

import pytest

from nopenai_site import environment
from nopenai_site.up import listener, privileges
from nopenai_site.up.directories import DirectoryFault, make_private
from nopenai_site.up.locks import AlreadyRunning, LeftoversRemain, lock_children, lock_installation
from nopenai_site.up.plan import child_environment
from nopenai_site.up.prepared import fingerprint, is_prepared, mark_prepared


def test_only_one_has_the_data_directory_and_the_other_learns_who(tmp_path: Path) -> None:
    held = lock_installation(tmp_path)
    with pytest.raises(AlreadyRunning) as refusal:
        lock_installation(tmp_path)
    assert refusal.value.pid == os.getpid()
    os.close(held)
    os.close(lock_installation(tmp_path))


def test_children_of_an_earlier_run_are_waited_for_and_then_named(tmp_path: Path) -> None:
    held = lock_children(tmp_path, patience_seconds=0)
    with pytest.raises(LeftoversRemain):
        lock_children(tmp_path, patience_seconds=0)
    os.close(held)
    os.close(lock_children(tmp_path, patience_seconds=0))


def test_a_private_directory_is_made_and_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    for path in (tmp_path / "new" / "deep", tmp_path / "open"):
        assert stat.S_IMODE(make_private(path).stat().st_mode) == 0o700


def test_a_link_or_a_file_in_the_place_of_a_private_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(DirectoryFault, match=name):
            make_private(tmp_path / name)


def test_a_port_in_use_is_explained_with_another_to_try() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(listener.PortFault, match=f"Port {port} on 127.0.0.1 is in use.*NOPENAI_PORT={port + 1}"):
            listener.listen("127.0.0.1", port)


def test_an_address_that_is_not_ours_is_explained() -> None:
    with pytest.raises(listener.PortFault, match=r"NOPENAI_HOST=192\.0\.2\.1 is not an address of this machine"):
        listener.listen("192.0.2.1", 8080)


def test_wherever_it_listens_there_is_a_url_for_this_machine() -> None:
    assert listener.url("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert listener.url("::", 80) == "http://[::1]:80"
    assert listener.url("127.0.0.2", 80) == "http://127.0.0.2:80"


def test_the_weakest_capability_that_suffices_is_lent() -> None:
    search, override = privileges.CAP_DAC_READ_SEARCH, privileges.CAP_DAC_OVERRIDE
    both = 1 << search | 1 << override
    assert privileges.weakest_capability(both, executable_by_all=True) == search
    assert privileges.weakest_capability(both, executable_by_all=False) == override
    assert privileges.weakest_capability(1 << override, executable_by_all=True) == override
    assert privileges.weakest_capability(1 << search, executable_by_all=False) is None
    assert privileges.weakest_capability(0, executable_by_all=True) is None


def test_children_get_what_was_decided_for_all_of_them() -> None:
    loaded = environment.load({"NOPENAI_NODE_RAM_MB": "2048"})
    variables = child_environment({"PATH": "/bin", "MALLOC_ARENA_MAX": "8"}, loaded, "some.settings")
    assert variables["DJANGO_SETTINGS_MODULE"] == "some.settings"
    assert variables["NOPENAI_NODE_RAM_MB"] == "2048"
    assert variables["MALLOC_ARENA_MAX"] == "8"
    assert variables["PATH"] == "/bin"


def test_a_database_counts_as_prepared_only_for_exactly_these_files(tmp_path: Path) -> None:
    cluster, first = tmp_path / "cluster", tmp_path / "0001_initial.py"
    cluster.mkdir()
    first.write_text("one")
    before = fingerprint([first])
    assert not is_prepared(cluster, before)
    mark_prepared(cluster, before)
    assert is_prepared(cluster, fingerprint([first]))
    first.write_text("two")
    assert not is_prepared(cluster, fingerprint([first]))
    first.write_text("one")
    assert not is_prepared(cluster, fingerprint([first, cluster / "nopenai_prepared"]))
