#!/usr/bin/env python3
"""Makes loom 0.7.3 look at every load that a store can race with, not only at the last access of an atomic.

Usage: correct_loom.py DIRECTORY-OF-A-COPY-OF-LOOM

Loom decides where to switch threads by asking, for the access a thread is about to make, which earlier access of the
same atomic it depends on, and it remembers one: the last. In `load; compare_exchange` against another thread's `load`,
the first thread's own load hides the other one's, and the interleaving in which the exchange comes first is never
tried. With all loads since the last store remembered, it is. The canary in `src/loom_models/mod.rs` fails without this.
"""

import pathlib
import re
import sys

source = pathlib.Path(sys.argv[1]) / "src" / "rt"


def edit(name, *changes):
    path = source / name
    text = path.read_text()
    for pattern, replacement, times in changes:
        text, found = re.subn(pattern, replacement, text, flags=re.S)
        if found != times:
            sys.exit(f"{path}: /{pattern}/ found {found} times, expected {times}; is this loom 0.7.3?")
    path.write_text(text)


edit(
    "atomic.rs",
    # Where the last access is kept, keep the loads too: the field, its first value, its upkeep, its use.
    (r"(    last_access: Option<Access>,\n)", r"\1    recent_loads: Vec<Access>,\n", 1),
    (r"(            last_access: None,\n)", r"\1            recent_loads: Vec::new(),\n", 1),
    (r"Action::Load => \{\}", "Action::Load => self.recent_loads.push(Access::new(path_id, version)),", 1),
    (r"(// Stores / RMWs\n)", r"\1                self.recent_loads.clear();\n", 1),
    (
        r"(    /// Sets the last dependent access\n)",
        "    pub(super) fn earlier_accesses(&self, action: Action) -> Vec<&Access> {\n"
        "        let mut earlier: Vec<&Access> = self.last_non_load_access.iter().collect();\n"
        "        if !matches!(action, Action::Load) {\n"
        "            earlier.extend(&self.recent_loads);\n"
        "        }\n"
        "        earlier\n"
        "    }\n\n" r"\1",
        1,
    ),
)
edit(
    "object.rs",
    (
        r"(    pub\(super\) fn last_dependent_access\()",
        "    pub(super) fn earlier_accesses(&self, operation: Operation) -> Vec<&Access> {\n"
        "        match &self.entries[operation.obj.index] {\n"
        "            Entry::Atomic(entry) => entry.earlier_accesses(operation.action.into()),\n"
        "            _ => self.last_dependent_access(operation).into_iter().collect(),\n"
        "        }\n"
        "    }\n\n" r"\1",
        1,
    ),
)
edit(
    "execution.rs",
    (r"if let Some\(access\) = self\.objects\.last_dependent_access\(", "for access in self.objects.earlier_accesses(", 2),
)
