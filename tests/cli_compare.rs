//! `dimslab compare`: what it refuses, what it writes, and that a killed grid goes on.
#![cfg(feature = "cli")]

mod cli_support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cli_support::{dimslab, input_error, output, text};
use tempfile::tempdir;

/// A grid of some seconds.
const SMALL: [&str; 18] = [
    "compare",
    "--rows",
    "12000",
    "--ids",
    "100000",
    "--seeds",
    "2",
    "--ratios",
    "4,40",
    "--bottom",
    "8",
    "--top",
    "8",
    "--window",
    "3000",
    "--threads",
    "2",
    "--out",
];

fn compare(out: &Path, more: &[&str]) -> assert_cmd::Command {
    let mut command = dimslab(SMALL);
    command.arg(out).args(more);
    command
}

/// The tables without the one that depends on time.
fn tables(dir: &Path) -> String {
    let text = fs::read_to_string(dir.join("tables.md")).expect("tables");
    let timed = text.split("## Training rows per second").next().expect("text before it");
    timed.to_owned()
}

#[test]
fn what_is_wrong_is_said_before_anything_runs() {
    let dir = tempdir().unwrap();
    for (args, part) in [
        (&["--methods", "full,hashh"][..], "is no method"),
        (&["--methods", "full,dimslab+chunk=x"], "chunk=x"),
        (&["--methods", "hash,hash"], "twice"),
        (&["--methods", "dimslab+chunk=5"], "chunk"),
        (&["--methods", "fiited+unit=3"], "divide"),
        (&["--data", "nowhere.tsv"], "nowhere.tsv"),
        (&["--lr", "nan"], "--lr"),
        (&["--zipf", "9"], "zipf"),
        (&["--holdout", "12000"], "held out"),
    ] {
        let error = input_error(&mut compare(&dir.path().join(args.join("_")), args));
        assert!(error.contains(part), "{args:?}: {error}");
    }
    for (flag, value, part) in [
        ("--ratios", "0.5", "--ratios"),
        ("--seeds", "0", "--seeds"),
        ("--window", "0", "--window"),
        ("--threads", "0", "--threads"),
        ("--ids", "5", "total_ids"),
    ] {
        let out = dir.path().join(flag);
        let error = input_error(&mut dimslab(["compare", flag, value, "--out", text(&out)]));
        assert!(error.contains(part), "{flag} {value}: {error}");
    }
    let mut command = compare(&dir.path().join("logs"), &["--data", "criteo"]);
    let error = input_error(command.env_remove("DIMSLAB_DATA"));
    assert!(error.contains("DIMSLAB_DATA"), "{error}");
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    assert!(input_error(&mut compare(dir.path(), &[])).contains("holds other files"));
}

#[test]
fn a_killed_grid_goes_on_and_comes_to_the_same_tables() {
    let dir = tempdir().unwrap();
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    let methods = ["--methods", "full,hash,cafe,fiited,dimslab,small-dim"];
    let (stdout, _) = output(&mut compare(&whole, &methods));
    for part in ["AUC (held-out)", "| dimslab |", "± ", "| small-dim |", "report.html"] {
        assert!(stdout.contains(part), "{part} is not in\n{stdout}");
    }
    for (file, part) in [("report.html", "<svg "), ("figures.csv", "impossible"), ("tables.md", "x 10^-4")] {
        assert!(fs::read_to_string(whole.join(file)).unwrap().contains(part), "{file}");
    }

    let mut child = Command::new(env!("CARGO_BIN_EXE_dimslab"))
        .args(SMALL)
        .arg(&killed)
        .args(methods)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let ran = || fs::read_dir(killed.join("runs")).map_or(0, |files| files.count());
    let since = Instant::now();
    while ran() < 3 && since.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = ran();
    assert!(before >= 3 && !killed.join("tables.md").exists(), "{before} trials before the kill");
    let (_, stderr) = output(&mut compare(&killed, &methods));
    assert_eq!(tables(&killed), tables(&whole));
    // What was there is not run again.
    let of = 2 * (1 + 2 * 5);
    let lines = stderr.lines().count();
    assert!(lines < of && lines + before >= of, "{before} before, {lines} after, {of} in all");

    let (_, stderr) = output(&mut compare(&killed, &methods));
    assert_eq!(stderr, "", "nothing is left to run");
    let error = input_error(&mut compare(&killed, &["--batch", "64"]));
    assert!(error.contains("other settings"), "{error}");
    let damaged = killed.join("runs").join("hash@4x-seed1.json");
    fs::write(&damaged, "{").unwrap();
    assert!(input_error(&mut compare(&killed, &methods)).contains(text(&damaged)));
}

#[test]
fn planted_needs_and_logs_without_a_held_out_tail_are_compared() {
    let dir = tempdir().unwrap();
    let (stdout, stderr) =
        output(&mut compare(&dir.path().join("planted"), &["--data", "planted", "--methods", "full,dimslab"]));
    assert!(stdout.contains("Planted needs met"), "{stdout}{stderr}");
    let log = dir.path().join("log.tsv");
    fs::write(&log, cli_support::criteo_lines(3000, 1).join("\n")).unwrap();
    let args = ["--data", text(&log), "--methods", "full,hash", "--holdout", "0", "--seeds", "1"];
    let mut command = dimslab(["compare", "--ratios", "4", "--out", text(&dir.path().join("log"))]);
    let (stdout, stderr) = output(command.args(args));
    assert!(stdout.contains("AUC (progressive)") && !stdout.contains("(held-out)"), "{stdout}{stderr}");
}
