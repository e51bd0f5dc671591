#!/usr/bin/env python3
"""Weakens one ordering, or drops one fence, at a time and tells whether a loom model notices.

Usage: .ci/mutate.py [--list] [--models=NAME] [PART...]     e.g. `.ci/mutate.py --models=slab_ slab.rs budget.rs`

All mutants are built at once, in an edited copy of the crate under the target directory: there each ordering is what a
function answers, and the number of the mutant, in the environment, is what that function goes by. Each is then run by
`.ci/loom.sh` until a model fails. A PART chooses the mutants whose `file:line` contains it, and NAME chooses models as it
does for `.ci/loom.sh`. Ends with an error if a mutant survived; docs/memory-ordering.md says which may, and why.
"""

import re
import sys

sys.dont_write_bytecode = True
from trial import ROOT, Copy  # noqa: E402

FILES = ["budget.rs", "sequence.rs", "chain.rs", "slab.rs", "superblocks.rs", "reclaim.rs", "directory/mod.rs",
         "directory/segment.rs", "directory/bucket.rs", "directory/near.rs"]
WEAKER = {"AcqRel": ["Acquire", "Release"], "Acquire": ["Relaxed"], "Release": ["Relaxed"]}
SECONDS = 900
CHOICE = """
fn mutant() -> usize {
    static NUMBER: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *NUMBER.get_or_init(|| std::env::var("MUTANT").ok().and_then(|number| number.parse().ok()).unwrap_or(usize::MAX))
}

/// `order`, or what it is in the mutant that is being run.
pub(crate) fn mutated(order: Ordering, weaker: &[(usize, Ordering)]) -> Ordering {
    weaker.iter().find(|&&(number, _)| number == mutant()).map_or(order, |&(_, weak)| weak)
}

/// A fence, but in the mutant that does without it.
pub(crate) fn mutated_fence(order: Ordering, number: usize) {
    if number != mutant() {
        fence(order);
    }
}
"""


def mutate(name, labels):
    """The file's text with every mutant in it, whose labels are appended to `labels`."""
    lines = (ROOT / "src" / name).read_text().split("\n")
    end = next((number for number, line in enumerate(lines) if line.startswith("#[cfg(all(test")), len(lines))
    for number, line in enumerate(lines[:end]):
        if line.lstrip().startswith("//"):
            continue

        def choice(found):
            place = f"{name}:{number + 1} {found.group(0)} at {found.start() + 1}"
            if fence := found.group(1):
                labels.append(f"{place} -> dropped")
                return f"crate::sync::mutated_fence(Ordering::{fence}, {len(labels) - 1});"
            weaker = []
            for weak in WEAKER[found.group(2)]:
                weaker.append(f"({len(labels)}, Ordering::{weak})")
                labels.append(f"{place} -> {weak}")
            return f"crate::sync::mutated({found.group(0)}, &[{', '.join(weaker)}])"

        lines[number] = re.sub(r"\bfence\(Ordering::(\w+)\);|Ordering::(AcqRel|Acquire|Release)\b", choice, line)
    return "\n".join(lines)


def main():
    parts = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    models = [argument.removeprefix("--models=") for argument in sys.argv[1:] if argument.startswith("--models=")]
    labels = []
    texts = {f"src/{name}": mutate(name, labels) for name in FILES}
    chosen = [(number, label) for number, label in enumerate(labels) if not parts or any(part in label for part in parts)]
    if "--list" in sys.argv:
        print("\n".join(label for _, label in chosen))
        return
    copy = Copy("mutant")
    for file, text in texts.items():
        (copy.path / file).write_text(text)
    with open(copy.path / "src" / "sync.rs", "a") as sync:
        sync.write(CHOICE)
    survivors = 0
    for number, label in [(len(labels), "nothing weakened"), *chosen]:
        outcome = copy.test([".ci/loom.sh", *models], SECONDS, until_failure=True, variables={"MUTANT": str(number)})
        survived = outcome.verdict == "passed"
        if outcome.verdict == "broken" or number == len(labels) and not survived:
            sys.exit(f"{label}: {outcome.why or outcome.tests}\n{outcome.output[-4000:]}")
        if number == len(labels):
            continue
        survivors += survived
        by = outcome.why or " ".join(name.rpartition("::")[2] for name in outcome.tests)
        print(f"{'survived' if survived else 'killed'}  {label}  {by}", flush=True)
    print(f"{len(chosen)} mutants, {survivors} survived")
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
