"""The script that makes .venv, with a Python that makes none and a pip that installs nothing."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from clones import REPO

# As python3.11 on PATH; makes a .venv whose pip says what pip says.
PYTHON = """#!/bin/bash
case "$*" in
    *realpath*) echo "$0" ;;
    "-m venv "*) {venv} ;;
    *) exec {real} "$@" ;;
esac
"""
MAKE_VENV = """mkdir -p "$3/bin"; cp {folder}/pip_python "$3/bin/python" """
SLOW_VENV = """exec {real} -c 'import time; open("{folder}/begun", "w"); time.sleep(60)'"""
PIP = """#!/bin/bash
case "$*" in
    *"-m pip"*)
        echo "Collecting aaa==1.0"
        sleep {seconds}
        echo "Installing collected packages: aaa"
        {end}
        ;;
    *) exec {real} "$@" ;;
esac
"""


@pytest.fixture
def script(tmp_path):
    """Writes the programs; returns what starts the script, which goes on in a session of its own."""

    def start(venv: str, seconds: float = 0, end: str = "true") -> subprocess.Popen[str]:
        programs = {"python3.11": PYTHON.replace("{venv}", venv), "pip_python": PIP}
        for name, text in programs.items():
            for key, value in {
                "real": sys.executable,
                "folder": tmp_path,
                "seconds": seconds,
                "end": end,
            }.items():
                text = text.replace(f"{{{key}}}", str(value))
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        home = tmp_path / "repository"
        home.mkdir()
        shutil.copy(REPO / "update_env.sh", home)
        (home / "requirements.txt").write_text("aaa==1.0\n")
        return subprocess.Popen(
            [home / "update_env.sh"],
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # As in a terminal, though the tests may run in the background, where Ctrl-C is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start


@pytest.mark.slow
def test_without_a_terminal_it_says_now_and_then_what_it_installs(script):
    done = script(MAKE_VENV, seconds=12)
    output, messages = done.communicate(timeout=60)
    assert (done.returncode, output) == (0, "")
    lines = [line.removeprefix("update_env.sh: ") for line in messages.splitlines()]
    assert "0 s: Collecting aaa==1.0" in lines
    assert any(line in lines for line in ("10 s: Collecting aaa==1.0", "11 s: Collecting aaa==1.0"))
    assert lines[-2].startswith("ready: ")


def test_an_install_that_fails_is_said(script):
    done = script(MAKE_VENV, end="echo no such package >&2; exit 1")
    _, messages = done.communicate(timeout=60)
    assert done.returncode == 2
    assert "no such package" in messages and "could not install requirements.txt (messages above)" in messages


def test_a_venv_that_fails_shows_why(script):
    done = script("echo no ensurepip >&2; exit 1")
    _, messages = done.communicate(timeout=60)
    assert done.returncode == 2 and "no ensurepip\n" in messages and "-m venv failed" in messages


def test_ctrl_c_while_the_venv_is_made_is_one_line(script, tmp_path):
    going = script(SLOW_VENV)
    while not (tmp_path / "begun").exists():
        time.sleep(0.05)
    os.killpg(going.pid, signal.SIGINT)
    _, messages = going.communicate(timeout=30)
    assert going.returncode == 130
    assert messages.splitlines()[-1] == "update_env.sh: interrupted; the same command begins anew"
    assert "Traceback" not in messages and "KeyboardInterrupt" not in messages
