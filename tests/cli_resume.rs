//! Snapshots of a run of the command, and runs that go on from them.
#![cfg(feature = "cli")]

mod cli_support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cli_support::{TINY, comparable, input_error, report, text, train};
use serde_json::Value;
use tempfile::tempdir;

const RUN: [&str; 9] =
    ["--policy", "fiited", "--budget", "1MiB", "--deterministic", "--window", "3000", "--checkpoint-every", "7"];

/// The windows of a run, without what differs from one machine to the next.
fn windows(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| {
        let mut window: Value = serde_json::from_str(line).unwrap();
        let keys = window.as_object_mut().unwrap();
        // The most that was ever held is of the process.
        ["samples_per_s", "peak"].iter().for_each(|key| assert!(keys.remove(*key).is_some()));
        window
    });
    lines.collect()
}

fn outcome(out: &Path) -> Value {
    let mut report = comparable(report(out));
    report["bytes"].as_object_mut().unwrap().remove("peak");
    report
}

/// Starts a run and kills it when it has saved a snapshot and closed so many windows.
fn kill_after(out: &Path, windows: usize, rows: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dimslab"));
    command.arg("train").args(TINY).args(RUN).args(["--rows", rows, "--out", text(out)]);
    let mut run = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    let closed = || fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
    while !(out.join("checkpoint/LATEST").exists() && closed() >= windows) {
        assert!(Instant::now() < until && run.try_wait().unwrap().is_none(), "the run ended before it was killed");
        std::thread::sleep(Duration::from_millis(2));
    }
    run.kill().unwrap();
    run.wait().unwrap();
    assert!(!out.join("report.json").exists(), "killed too late");
}

#[test]
fn a_killed_run_goes_on_to_the_same_end() {
    let dir = tempdir().unwrap();
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    let rows = "60000";
    train(&RUN).args(["--rows", rows, "--out", text(&whole)]).assert().success();
    kill_after(&killed, 3, rows);
    cli_support::dimslab(["train", "--resume", text(&killed)]).assert().success();
    assert_eq!(windows(&killed), windows(&whole));
    assert_eq!(outcome(&killed), outcome(&whole));
    // And from its last snapshot once more, to the same end.
    cli_support::dimslab(["train", "--resume", text(&killed)]).assert().success();
    assert_eq!(windows(&killed), windows(&whole));
    assert_eq!(outcome(&killed), outcome(&whole));
}

#[test]
fn snapshots_do_not_change_a_run_and_another_run_does_not_take_their_place() {
    let dir = tempdir().unwrap();
    let (one, other) = (dir.path().join("one"), dir.path().join("other"));
    // Seldom and often.
    train(&RUN).args(["--rows", "20000", "--out", text(&one)]).assert().success();
    let mut often = RUN;
    often[8] = "1";
    train(&often).args(["--rows", "20000", "--out", text(&other)]).assert().success();
    assert_eq!(windows(&one), windows(&other));
    let kept = fs::read_dir(one.join("checkpoint")).unwrap().count();
    assert_eq!(kept, 3, "two snapshots and LATEST");
    let error = input_error(train(&RUN).args(["--rows", "20000", "--out", text(&one)]));
    assert!(error.contains("--resume"), "{error}");
    assert_eq!(windows(&one), windows(&other), "nothing was touched");
}

#[test]
fn what_cannot_be_gone_on_with_is_said() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("out");
    let resume = |more: &[&str]| {
        let mut command = cli_support::dimslab(["train", "--resume", text(&out)]);
        command.args(more);
        input_error(&mut command)
    };
    assert!(resume(&[]).contains("no snapshot"));
    train(&["--policy", "fiited", "--rows", "3000", "--out", text(&out)]).assert().success();
    assert!(resume(&[]).contains("no snapshot"));
    fs::create_dir(out.join("checkpoint")).unwrap();
    assert!(resume(&[]).contains("no snapshot"));
    fs::write(out.join("checkpoint/notes.txt"), "mine").unwrap();
    assert!(resume(&[]).contains("notes.txt"));
    assert_eq!(fs::read_to_string(out.join("checkpoint/notes.txt")).unwrap(), "mine");
    // The settings are those of the run.
    let mut command = cli_support::dimslab(["train", "--resume", text(&out), "--dim", "8"]);
    assert_eq!(command.output().unwrap().status.code(), Some(2));
}
