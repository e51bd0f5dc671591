//! The layers of `docs/design.md`, read off the `use crate::` lines.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What each part may use. Parts that are not named here fail the test.
const MAY_USE: &[(&str, &[&str])] = &[
    ("sync", &[]),
    ("failpoint", &["interleave", "sync"]),
    ("interleave", &["failpoint"]),
    ("simd", &[]),
    ("error", &["id"]),
    ("id", &[]),
    ("hash", &[]),
    ("config", &["error"]),
    ("budget", &["sync"]),
    ("rowcopy", &["sync"]),
    ("watch", &["sync"]),
    ("region", &["failpoint", "sync", "watch"]),
    ("sequence", &["failpoint", "sync"]),
    ("sketch", &["sync"]),
    ("importance", &[]),
    ("optim", &["config", "simd"]),
    ("scratch", &["simd"]),
    ("superblocks", &["budget", "failpoint", "region", "sync", "watch"]),
    ("magazine", &["id"]),
    ("slab", &["failpoint", "id", "magazine", "region", "superblocks", "sync", "watch"]),
    ("directory", &["budget", "failpoint", "id", "rowcopy", "sync"]),
    ("moment", &["failpoint", "sequence", "sync"]),
    (
        "chain",
        &["config", "directory", "failpoint", "hash", "id", "moment", "rowcopy", "sequence", "slab", "sync", "watch"],
    ),
    ("reclaim", &["failpoint", "id", "magazine", "slab", "superblocks", "sync"]),
    (
        "store",
        &[
            "budget",
            "chain",
            "config",
            "directory",
            "error",
            "failpoint",
            "hash",
            "id",
            "importance",
            "moment",
            "optim",
            "reclaim",
            // The pruning thread asks it for the processor time it has used.
            "region",
            "rowcopy",
            "scratch",
            "sequence",
            "simd",
            "sketch",
            "slab",
            "snapshot",
            "superblocks",
            "sync",
            // Its tests: how large records are where they are padded.
            "watch",
        ],
    ),
    ("bench", &["budget", "id", "magazine", "reclaim", "slab", "superblocks", "sync"]),
    ("snapshot", &["config", "sync"]),
    ("serving", &["config", "hash", "rowcopy", "snapshot"]),
    ("data", &[]),
    ("dlrm", &["data", "serving", "simd", "snapshot", "sync"]),
    ("study", &["data", "dlrm", "simd", "sync"]),
    ("report", &["data", "dlrm", "study"]),
    ("cli", &["data", "dlrm", "report", "serving", "snapshot", "study", "sync"]),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

/// The file's part, and the text before its tests.
fn part_and_code(root: &Path, file: &Path) -> (String, String) {
    let relative = file.strip_prefix(root).unwrap();
    let part = relative.components().next().unwrap().as_os_str().to_str().unwrap();
    let text = std::fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let code = code.split("#[cfg(all(test, not(any(loom, shuttle))))]\nmod tests").next().unwrap();
    let code = code.split("#[cfg(all(test, dimslab_asan))]\nmod tests").next().unwrap();
    (part.trim_end_matches(".rs").to_owned(), code.to_owned())
}

/// Parts named by `crate::part` and `crate::{part, ..}`; what begins with a capital is the public API at the root.
fn used_parts(code: &str) -> impl Iterator<Item = String> {
    code.split("crate::").skip(1).flat_map(|used| {
        let used = used.split(';').next().unwrap_or_default();
        let group = used.strip_prefix('{').map(|group| group.split('}').next().unwrap_or_default());
        let names: Vec<String> =
            group.unwrap_or(used.split([',', '}']).next().unwrap_or_default()).split(',').map(first_word).collect();
        names.into_iter().filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
    })
}

fn first_word(text: &str) -> String {
    text.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

#[test]
fn parts_use_only_what_lies_below() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let rules: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let mut seen = 0;
    for file in files {
        let (part, code) = part_and_code(&root, &file);
        if ["lib", "main", "loom_models", "shuttle_models"].contains(&part.as_str()) || file.ends_with("tests.rs") {
            continue;
        }
        let allowed = rules.get(part.as_str()).unwrap_or_else(|| panic!("src/{part} has no layer: give it one"));
        for name in used_parts(&code).filter(|name| *name != part) {
            seen += 1;
            assert!(allowed.contains(&name.as_str()), "{}: src/{part} may not use crate::{name}", file.display());
        }
    }
    assert!(seen > 50, "only {seen} uses found: is this test still reading the sources?");
}

#[test]
fn one_file_names_std_atomics() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for file in files.iter().filter(|file| !file.ends_with("sync.rs")) {
        let (_, code) = part_and_code(&root, file);
        assert!(!code.contains("sync::atomic"), "{} names std atomics", file.display());
    }
}
