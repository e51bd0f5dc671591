//! `dimslab soak`: clean runs, wrong flags, replays.
#![cfg(feature = "cli")]

mod cli_support;

use cli_support::{dimslab, input_error, output};

fn digest(args: &[&str]) -> String {
    let mut command = dimslab(["soak", "--deterministic"]);
    let (out, errors) = output(command.args(args));
    let digest = out.lines().find_map(|line| line.strip_prefix("digest"));
    digest.unwrap_or_else(|| panic!("no digest: {out}{errors}")).trim().to_owned()
}

#[test]
fn runs_clean_and_says_what_it_did() {
    for threads in ["2", "8"] {
        let mut command = dimslab(["soak", "--seconds", "2", "--threads", threads, "--seed", "3", "--verbose"]);
        let (out, lines) = output(&mut command);
        assert!(command.output().is_ok_and(|output| output.status.success()), "{out}{lines}");
        assert!(out.starts_with(&format!("soak     seed 3, threads {threads}, budget 2MiB")), "{out}");
        assert!(lines.lines().count() >= 2 && lines.contains("ops/s"), "{lines}");
        let rows = out.lines().find(|line| line.starts_with("rows")).expect("a line of events");
        assert!(!rows.contains("evicted 0,") && !rows.contains("shrunk 0,"), "nothing was pruned: {rows}");
    }
}

#[test]
fn a_deterministic_run_replays() {
    let run = |seed| digest(&["--ops", "30000", "--budget", "1MiB", "--seed", seed]);
    let first = run("5");
    assert_eq!(first, run("5"));
    assert_ne!(first, run("6"));
}

#[test]
fn wrong_flags_are_named() {
    let error = |args: &[&str]| input_error(dimslab(["soak"]).args(args));
    assert!(error(&["--threads", "0"]).contains("--threads"));
    assert!(error(&["--seconds", "0"]).contains("--seconds"));
    assert!(error(&["--ops", "none"]).contains("--ops"));
    assert!(error(&["--budget", "12 parsecs"]).contains("64MiB"));
    assert!(error(&["--budget", "1kB"]).contains("budget"));
    assert!(error(&["--deterministic", "--threads", "2"]).contains("--deterministic"));
}
