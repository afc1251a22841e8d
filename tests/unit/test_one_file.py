"""The head of tt in one file: it unpacks once, shares nothing with other users, and never keeps a
command from running. The Python that it starts is a script here."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from release.carried import script
from release.one_file import with_head
from release.packing import tar_gz

TOOLS = (
    "cat",
    "chmod",
    "gzip",
    "id",
    "mkdir",
    "mktemp",
    "mv",
    "readlink",
    "rm",
    "sh",
    "tail",
    "tar",
)
LOADER = '#!/bin/sh\nshift 5\necho started "$@"\nexit 7\n'


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The file, around a loader that tells how it was started."""
    unpacked = tmp_path / "unpacked"
    for name in ("start/tt", "bin/python3"):
        path = unpacked / name
        path.parent.mkdir(parents=True)
        path.write_text(LOADER if name == "start/tt" else "#!/bin/sh\nexit 0\n")
        path.chmod(0o755)
    program = tmp_path / "tt"
    program.write_bytes(with_head(tar_gz(unpacked, "unpacked")))
    program.chmod(0o755)
    return program


def tt(
    program: Path, *words: str, without: tuple[str, ...] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    """Run it with a PATH of a few tools."""
    tools = program.parent / f"tools-{'-'.join(without)}"
    if not tools.exists():
        tools.mkdir()
        for name in TOOLS:
            if name not in without:
                (tools / name).symlink_to(shutil.which(name) or "")
    return subprocess.run(
        [str(program), *words],
        env={"PATH": str(tools), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_unpacks_once_and_then_only_starts(program: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for without in ((), ("tar", "gzip", "mktemp", "id")):
        done = tt(program, "-n", "a b", "echo $x", without=without, TT_CACHE=str(cache))
        assert done.returncode == 7, done
        assert done.stdout.endswith("/lib/tt -n a b echo $x\n") and done.stderr == ""
        assert len(list(cache.iterdir())) == 1
    (unpacked,) = cache.iterdir()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert os.access(unpacked / "start/tt", os.X_OK)


def test_the_default_is_the_cache_of_the_user(program: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert tt(program, "true", HOME=str(home)).returncode == 7
    assert len(list((home / ".cache/tt").iterdir())) == 1
    assert tt(program, "true", HOME="/", XDG_CACHE_HOME=str(tmp_path / "xdg")).returncode == 7
    assert len(list((tmp_path / "xdg/tt").iterdir())) == 1


def test_a_directory_that_cannot_be_used_leads_to_the_next(program: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file")
    done = tt(program, "true", TT_CACHE=str(taken), TMPDIR=str(tmp_path))
    assert done.returncode == 7, done
    assert len(list((tmp_path / f"tt-{os.getuid()}").iterdir())) == 1


def test_what_another_user_has_laid_there_is_not_run(program: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can lay a file of another user there")
    cache = tmp_path / "cache"
    assert tt(program, "true", TT_CACHE=str(cache)).returncode == 7
    (unpacked,) = cache.iterdir()
    (unpacked / "start/tt").write_text("#!/bin/sh\necho not ours\n")
    os.chown(unpacked, 65534, 65534)
    os.chown(cache, 65534, 65534)
    done = tt(program, "true", TT_CACHE=str(cache), TMPDIR=str(tmp_path))
    assert (done.returncode, "not ours" in done.stdout) == (7, False), done


def test_without_tools_to_unpack_the_command_runs_untraced(program: Path, tmp_path: Path) -> None:
    def untraced(*words: str) -> subprocess.CompletedProcess[str]:
        return tt(program, *words, without=("tar", "gzip"), TT_CACHE=str(tmp_path / "cache"))

    done = untraced(
        "-n", "x", "--quiet", "--title=a", "--", "sh", "-c", 'echo "$1"; exit 5', "s", "a b"
    )
    assert (done.returncode, done.stdout) == (5, "a b\n"), done
    assert "the command runs untraced" in done.stderr
    done = untraced("-nx", "echo text; exit 6")
    assert (done.returncode, done.stdout) == (6, "text\n"), done
    assert untraced("-n").returncode == 2
    assert untraced("-n", "x", "-").returncode == 0


def test_a_program_of_a_directory_finds_it_however_it_is_called(tmp_path: Path) -> None:
    top = tmp_path / "a b"
    (top / "start").mkdir(parents=True)
    (top / "start/x").write_text('#!/bin/sh\necho "$2|$4|$6|$7"\n')
    (top / "start/x").chmod(0o755)
    script(top, "x", "prog", "-I")
    (tmp_path / "link").symlink_to("a b/bin/prog")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/deep").symlink_to("../link")
    for words, folder in (
        ([str(top / "bin/prog")], "/"),
        (["./prog"], top / "bin"),
        (["bin/prog"], top),
        (["../a b/bin/../bin/prog"], top),
        ([str(tmp_path / "link")], "/"),
        (["inner/deep"], tmp_path),
        (["sh", "prog"], top / "bin"),
        (["prog"], "/"),
    ):
        path = f"{top / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            [*words, "end"],
            cwd=folder,
            env={"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == f"{top}/lib|{top}/bin/python3|-I|end\n", (words, folder, done)


def test_the_archive_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner/b").write_text("b")
        (tmp_path / name / "a").symlink_to("inner/b")
    os.utime(tmp_path / "second/inner/b", (1, 1))
    packed = tar_gz(tmp_path / "first", "top")
    assert packed == tar_gz(tmp_path / "second", "top")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert archive.getnames() == ["top", "top/a", "top/inner", "top/inner/b"]
        assert {(member.mtime, member.uname) for member in archive} == {(0, "")}
