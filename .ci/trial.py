"""Runs tests on an edited copy of the crate: what `mutate.py` and `planted.py` share.

The copy is under the target directory, with a target directory of its own: cargo goes by names and modification times
within a package, so that in a shared one it would run the tests of the copy, bug and all, for those of the crate.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import threading

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
FILES = ["Cargo.toml", "Cargo.lock", "README.md"]
FOLDERS = ["src", ".ci", "examples", "benches", "tests"]


class Outcome:
    """What a command made of an edited copy: `passed`, `failed` (`tests` did), or `broken`, for the reason in `why`.

    `running` is the number of tests that were started.
    """

    def __init__(self, verdict, output, running, why="", tests=()):
        self.verdict, self.output, self.why, self.tests = verdict, output, why, list(tests)
        self.running = running


class Copy:
    def __init__(self, name):
        self.path, self.target = TARGET / name / "crate", TARGET / name / "target"
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        for entry in FILES:
            shutil.copy2(ROOT / entry, self.path / entry)
        for entry in FOLDERS:
            shutil.copytree(ROOT / entry, self.path / entry)

    @contextlib.contextmanager
    def edited(self, file, text):
        """Puts `text` in the place of a file for as long as the context lasts."""
        target = self.path / file
        original = target.read_text()
        target.write_text(text)
        try:
            yield
        finally:
            target.write_text(original)

    def test(self, command, seconds, until_failure=False, variables=None):
        """Runs the command, that of a Rust test run. What counts is what the tests say: a copy that does not build, or of
        which no test ran, is broken and not failed. With `until_failure` the run is ended when a test has failed.
        """
        # A run that was ended early has not put it back.
        shutil.copy2(ROOT / "Cargo.lock", self.path / "Cargo.lock")
        environment = os.environ | {"CARGO_TARGET_DIR": str(self.target), "CARGO_TERM_COLOR": "never"} | (variables or {})
        process = subprocess.Popen(
            command, cwd=self.path, env=environment, text=True, errors="replace", start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        ended = []

        def end(why):
            ended.append(why)
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(seconds, end, ["late"])
        timer.start()
        lines = []
        for line in process.stdout:
            lines.append(line)
            if until_failure and not ended and re.search(r"\.\.\. FAILED$", line):
                end("enough")
        process.wait()
        timer.cancel()
        return judge("".join(lines), process.returncode, ended[:1])


def judge(output, code, ended):
    running = sum(int(count) for count in re.findall(r"^running (\d+) tests?$", output, re.M))
    failed = re.findall(r"test ([\w:]+) \.\.\. FAILED$", output, re.M)
    for listed in re.findall(r"^failures:\n((?:    [\w:]+\n)+)", output, re.M):
        failed += listed.split()
    failed = sorted(set(failed))
    if running == 0:
        built = re.search(r"^running 0 tests$", output, re.M)
        return Outcome("broken", output, 0, "no test ran" if built else "did not build")
    if failed:
        return Outcome("failed", output, running, tests=failed)
    if ended == ["late"]:
        return Outcome("failed", output, running, "did not end")
    if code != 0:
        # A panic while another one unwinds ends the process before the test is reported.
        return Outcome("failed", output, running, f"the tests died with {code}")
    return Outcome("passed", output, running)
