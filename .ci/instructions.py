#!/usr/bin/env python3
"""Counts the instructions of fixed work (benches/instructions.rs) and sees that none takes more than it did.

Usage: .ci/instructions.py [--record] [KERNEL...]

Instructions hardly change with the machine or with what else it does, as times do. Ends with an error if a kernel takes
more than 5 % more of them than `.ci/instructions.txt` says, if a kernel is missing on either side, or if the processor's
vectors are of another width than those of the counts (valgrind gives AVX2 at most, so that all later processors agree).
A kernel that takes much less is told, so that its gain can be held.

After a change that is meant to cost more, or that gains: `.ci/instructions.py --record`, which writes the file anew (or the
lines of the given kernels), and say in the commit why. Needs valgrind.
"""

import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
COUNTS = ROOT / ".ci" / "instructions.txt"
LIMIT = 1.05


def bench():
    """Builds the bench and returns its path."""
    command = ["cargo", "bench", "--bench", "instructions", "--no-run", "--message-format=json"]
    built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    messages = [json.loads(line) for line in built.stdout.splitlines() if line.startswith("{")]
    found = [m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "instructions"]
    if len(found) != 1:
        sys.exit("cargo did not say which program it built")
    return found[0]


def valgrind(program, word):
    """Runs the bench with one word; returns what it printed and how many instructions were counted."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*counted_work*"]
    run = subprocess.run([*command, program, word], cwd=ROOT, capture_output=True, text=True)
    collected = re.search(r"Collected : (\d+)", run.stderr)
    if run.returncode != 0 or not collected:
        sys.exit(f"{word}: valgrind ended with {run.returncode}\n{run.stderr}")
    return run.stdout.strip(), int(collected.group(1))


def recorded():
    """The counts of the file by kernel, and its level."""
    if not COUNTS.exists():
        return {}, None
    lines = [line.split() for line in COUNTS.read_text().splitlines() if line and not line.startswith("#")]
    pairs = {name: value for name, value in lines}
    level = pairs.pop("level", None)
    return {name: int(value) for name, value in pairs.items()}, level


def main():
    words = sys.argv[1:]
    record = "--record" in words
    names = [word for word in words if word != "--record"]
    program = bench()
    known = subprocess.run([program, "list"], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"no kernel is called {unknown[0]}; there are {' '.join(known)}")
    level = valgrind(program, "level")[0]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        chosen = names or known
        counts = dict(zip(chosen, [count for _, count in pool.map(lambda name: valgrind(program, name), chosen)]))
    none = [name for name, count in counts.items() if count == 0]
    if none:
        sys.exit(f"{none[0]}: nothing was counted")

    old, old_level = recorded()
    for name, count in counts.items():
        change = f"{(count / old[name] - 1) * 100:+6.2f} %" if name in old else "new"
        print(f"{name:28}{count:14,}  {change}")
    if record:
        kept = counts | {name: old[name] for name in old if name in known and name not in counts}
        lines = [f"{name} {kept[name]}" for name in known if name in kept]
        text = "# Instructions of each kernel of benches/instructions.rs; written by `.ci/instructions.py --record`.\n"
        COUNTS.write_text(text + f"level {level}\n" + "\n".join(lines) + "\n")
        print(f"written to {COUNTS.relative_to(ROOT)}")
        return
    if level != old_level:
        sys.exit(f"the counts are of {old_level}, but this processor has {level} under valgrind")
    if not names and set(old) != set(known):
        sys.exit(f"counts and kernels differ: {' '.join(sorted(set(old) ^ set(known)))}; record them anew")
    more = [name for name in counts if name not in old or counts[name] > old[name] * LIMIT]
    less = [name for name in counts if name in old and counts[name] * LIMIT < old[name]]
    if less:
        print(f"less than recorded, `.ci/instructions.py --record {' '.join(less)}` holds the gain")
    if more:
        sys.exit(f"more than {LIMIT:.0%} of the instructions recorded: {' '.join(more)} (see the top of this file)")


if __name__ == "__main__":
    main()
