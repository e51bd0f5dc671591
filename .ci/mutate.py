#!/usr/bin/env python3
"""Weakens one ordering, or drops one fence, at a time and tells whether a loom model notices.

Usage: .ci/mutate.py [--list] [--models=NAME] [PART...]     e.g. `.ci/mutate.py --models=slab_ slab.rs budget.rs`

Each mutant is a copy of the crate under the target directory, built and run by `.ci/loom.sh`; a PART chooses those
whose `file:line` contains it, and NAME chooses models as it does for `.ci/loom.sh`. A mutant takes one to three minutes, so this is no part of `.ci/run`. Ends with an error
if a mutant survived; docs/memory-ordering.md says which may, and why.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = ["budget.rs", "sequence.rs", "chain.rs", "slab.rs", "reclaim.rs", "directory/mod.rs", "directory/segment.rs"]
WEAKER = {"AcqRel": ["Acquire", "Release"], "Acquire": ["Relaxed"], "Release": ["Relaxed"]}
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
COPY = TARGET / "mutant"
# A failed build must not count as a kill, and neither may a run in which no model was tried.
STARTED = re.compile(r"running [1-9]\d* test")


def mutants():
    for name in FILES:
        lines = (ROOT / "src" / name).read_text().split("\n")
        for number, line in enumerate(lines):
            if line.startswith("#[cfg(all(test"):
                break
            if line.lstrip().startswith("//"):
                continue
            for found in re.finditer(r"fence\(Ordering::\w+\);|Ordering::(AcqRel|Acquire|Release)\b", line):
                if line[: found.start()].endswith("fence("):
                    continue
                order = found.group(1)
                for new in [f"Ordering::{weaker}" for weaker in WEAKER[order]] if order else [""]:
                    changed = line[: found.start()] + new + line[found.end() :]
                    text = "\n".join(lines[:number] + [changed] + lines[number + 1 :])
                    label = f"{name}:{number + 1} {found.group(0)} at {found.start() + 1} -> {new or 'dropped'}"
                    yield name, label, text


def run(name, text, models):
    target = COPY / "src" / name
    original = target.read_text()
    target.write_text(text)
    try:
        environment = os.environ | {"CARGO_TARGET_DIR": str(TARGET)}
        ended = subprocess.run([COPY / ".ci" / "loom.sh", *models], env=environment, capture_output=True, text=True)
    finally:
        target.write_text(original)
    output = ended.stdout + ended.stderr
    if not STARTED.search(output):
        sys.exit(f"the models did not start:\n{output[-4000:]}")
    if ended.returncode == 0:
        return "survived", []
    return "killed", sorted(set(re.findall(r"^    loom_models::(\w+)$", output, re.M)))


def main():
    parts = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    models = [argument.removeprefix("--models=") for argument in sys.argv[1:] if argument.startswith("--models=")]
    chosen = [mutant for mutant in mutants() if not parts or any(part in mutant[1] for part in parts)]
    if "--list" in sys.argv:
        print("\n".join(label for _, label, _ in chosen))
        return
    shutil.rmtree(COPY, ignore_errors=True)
    COPY.mkdir(parents=True)
    for entry in ["Cargo.toml", "Cargo.lock", "README.md"]:
        shutil.copy2(ROOT / entry, COPY / entry)
    for entry in ["src", ".ci", "examples", "tests"]:
        shutil.copytree(ROOT / entry, COPY / entry)
    survivors = 0
    for name, label, text in chosen:
        verdict, by = run(name, text, models)
        survivors += verdict == "survived"
        print(f"{verdict}  {label}  {' '.join(by)}", flush=True)
    print(f"{len(chosen)} mutants, {survivors} survived")
    sys.exit(1 if survivors else 0)


main()
