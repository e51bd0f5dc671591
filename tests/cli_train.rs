//! Whole runs of the command: outputs, reports, determinism, interruption.
#![cfg(feature = "cli")]

mod cli_support;

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cli_support::{TINY, comparable, criteo_lines, dimslab, output, report, text, train};
use serde_json::Value;
use tempfile::tempdir;

#[test]
fn without_arguments_full_size_is_compared_with_budgeted() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("run");
    for _ in 0..2 {
        // The second run takes the place of the first.
        let (stdout, stderr) = output(&mut train(&["--rows", "6000", "--out", text(&out)]));
        for part in [
            "full-size",
            "budgeted",
            "bytes held",
            "held-out AUC",
            "held-out log-loss",
            "held-out NE",
            "progressive AUC",
            "samples/s",
            "resident before the store",
            "report.html",
        ] {
            assert!(stdout.contains(part), "{part} is not in\n{stdout}{stderr}");
        }
        assert_eq!(stderr, "", "not a terminal: quiet");
    }
    let (full, budgeted) = (report(&out.join("full-size")), report(&out));
    assert_eq!(full["config"]["policy"], "none");
    assert_eq!(budgeted["config"]["policy"], "fiited");
    let bytes = |report: &Value, kind: &str| report["bytes"][kind].as_u64().unwrap();
    assert_eq!(bytes(&budgeted, "budget"), bytes(&full, "held") / 10);
    assert!(bytes(&budgeted, "peak") <= bytes(&budgeted, "budget"));
    let (shown, stderr) = output(&mut dimslab(["inspect", text(&out)]));
    for part in ["full-size", "budgeted", "C26", "rows seen"] {
        assert!(shown.contains(part), "{part} is not in\n{shown}{stderr}");
    }
}

// Catches: a phase that is not timed or timed twice, and the flag's text going missing.
#[test]
fn a_profile_accounts_for_the_time_of_every_thread() {
    let args = ["--policy", "fiited", "--budget", "1MiB", "--rows", "6000", "--threads", "2", "--profile"];
    let (stdout, stderr) = output(dimslab(["train", "--bottom", "16", "--top", "16", "--dim", "8"]).args(args));
    for part in ["roofline", "GFLOP/s", "top MLP backward", "embedding backward + optimizer", "waiting and the rest"] {
        assert!(stdout.contains(part), "{part} is not in\n{stdout}{stderr}");
    }
    let shares: Vec<f64> = stdout
        .lines()
        .filter(|line| line.contains(" %") && line.contains('│'))
        .map(|line| line.split(" %").next().unwrap().rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(shares.len(), 16, "{stdout}");
    let sum: f64 = shares.iter().sum();
    assert!((sum - 100.0).abs() < 1.5, "the shares add up to {sum}\n{stdout}");
}

#[test]
fn a_report_has_every_documented_field() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("run");
    let args = ["--policy", "fiited", "--budget", "1MiB", "--rows", "4000", "--window", "1000"];
    train(&args).args(["--out", text(&out)]).assert().success();
    let report = report(&out);
    for path in [
        "rows",
        "auc",
        "logloss",
        "ne",
        "progressive.auc",
        "progressive.logloss",
        "progressive.ne",
        "samples_per_s",
        "wall_s",
        "seed",
        "threads",
        "bytes.budget",
        "bytes.peak",
        "bytes.held",
        "bytes.resident",
        "bytes.weights",
        "bytes.optimizer",
        "bytes.metadata",
        "bytes.sketch",
        "rows_live",
        "chunks_live",
        "events.admitted",
        "events.grown",
        "events.shrunk",
        "events.evicted",
        "events.refused",
        "skipped_lines",
        "process.resident_before",
        "process.resident_peak",
        "process.resident_now",
        "process.model_bytes",
        "process.buffer_bytes",
        "config.dim",
    ] {
        let value = path.split('.').fold(&report, |value, key| &value[key]);
        assert!(value.is_number(), "{path}: {value}");
    }
    assert_eq!(report["interrupted"], false);
    assert_eq!(report["rows"], 3600);
    assert_eq!(report["holdout_rows"], 400);
    assert!(report["bytes"]["peak"].as_u64() <= report["bytes"]["budget"].as_u64());
    let rows = report["dims_histogram"].as_object().unwrap();
    let rows: u64 = rows.values().map(|rows| rows.as_u64().unwrap()).sum();
    assert_eq!(Some(rows), report["rows_live"].as_u64());
    assert_eq!(report["tables"].as_array().unwrap().len(), 26);
    assert_eq!(report["config"]["budget"], "1MiB");

    let lines = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let windows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(windows.len() as u64, report["windows"].as_u64().unwrap());
    let rows: u64 = windows.iter().map(|window| window["rows"].as_u64().unwrap()).sum();
    assert_eq!(rows, 3600);
    for window in &windows {
        assert_eq!(window["live_dims"].as_array().unwrap().len(), 26);
        assert!(window["held"].as_u64() <= window["budget"].as_u64());
    }
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert_eq!(page.matches("<svg").count(), 6);
    assert!(!page.contains("<script") && !page.contains("href="));
}

#[test]
fn deterministic_reports_are_equal_on_any_number_of_threads() {
    let dir = tempdir().unwrap();
    let args = ["--deterministic", "--policy", "fiited", "--budget", "1MiB", "--rows", "12000"];
    let run = |name: &str, threads: &str| {
        let out = dir.path().join(name);
        let mut flags = TINY;
        flags[9] = threads;
        let mut command = dimslab(["train"]);
        command.args(flags).args(args).args(["--out", text(&out)]).assert().success();
        let report = report(&out);
        assert_eq!(report["threads"].to_string(), threads);
        comparable(report)
    };
    let one = run("one", "1");
    assert_eq!(one, run("again", "1"));
    for round in 0..4 {
        assert_eq!(one, run(&format!("two {round}"), "2"), "two threads, run {round}");
        assert_eq!(one, run(&format!("three {round}"), "3"), "three threads, run {round}");
    }
    for event in ["admitted", "grown", "shrunk", "evicted"] {
        assert!(one["events"][event].as_u64() > Some(100), "{event}: {}", one["events"]);
    }
}

#[test]
fn a_generated_file_trains_like_the_embedded_stream() {
    let dir = tempdir().unwrap();
    let settings = ["--deterministic", "--policy", "none", "--budget", "64MiB", "--holdout", "500", "--seed", "7"];
    let embedded = dir.path().join("embedded");
    train(&settings).args(["--rows", "4000", "--out", text(&embedded)]).assert().success();
    let embedded = report(&embedded);
    for name in ["log.tsv", "log.tsv.gz", "log.tsv.zst"] {
        let path = dir.path().join(name);
        dimslab(["generate", "--rows", "4000", "--seed", "7", "--out", text(&path)]).assert().success();
        let out = dir.path().join(name.replace('.', "_"));
        train(&settings).args(["--data", text(&path), "--out", text(&out)]).assert().success();
        let file = report(&out);
        for field in ["rows", "auc", "logloss", "progressive", "rows_live", "bytes", "tables"] {
            if field == "bytes" {
                assert_eq!(file["bytes"]["held"], embedded["bytes"]["held"], "{name}");
            } else {
                assert_eq!(file[field], embedded[field], "{name}: {field}");
            }
        }
    }
    assert!(embedded["reachable_auc"].as_f64().unwrap() > 0.7);
}

#[test]
fn several_csv_files_are_read_in_order() {
    let dir = tempdir().unwrap();
    let mut paths = Vec::new();
    for part in 0..2 {
        let path = dir.path().join(format!("part{part}.csv"));
        let rows: String = (0..300).map(|i| format!("{},{},user{},item{}\n", i % 2, i * 10, i % 17, i % 5)).collect();
        fs::write(&path, format!("click,price,user,item\n{rows}")).unwrap();
        paths.push(path);
    }
    let out = dir.path().join("run");
    let columns = "label=click,dense=price,cat=*";
    train(&["--format", "csv", "--columns", columns, "--budget", "4MiB", "--policy", "none", "--data"])
        .args(&paths)
        .args(["--out", text(&out)])
        .assert()
        .success();
    let report = report(&out);
    assert_eq!(report["rows"], 600);
    assert_eq!(report["tables"][0]["name"], "user");
    assert_eq!(report["tables"][0]["rows"], 17);
    assert!(report["auc"].is_null(), "nothing was held out");
    assert!(report["progressive"]["auc"].is_f64());
}

#[test]
fn rows_of_one_class_have_no_auc_and_no_nan() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("log.txt");
    let mut lines = criteo_lines(600, 9);
    for line in &mut lines {
        line.replace_range(0..1, "0");
    }
    fs::write(&path, lines.join("\n")).unwrap();
    let out = dir.path().join("run");
    train(&["--data", text(&path), "--budget", "16MiB", "--out", text(&out)]).assert().success();
    let report = report(&out);
    assert!(report["progressive"]["auc"].is_null() && report["progressive"]["ne"].is_null());
    assert!(report["progressive"]["logloss"].is_f64());
    assert!(!fs::read_to_string(out.join("report.html")).unwrap().contains("NaN"));
}

#[test]
fn a_flag_beats_the_file_and_printed_settings_read_back() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("run.toml");
    fs::write(&path, "policy = \"none\"\nbudget = \"3MiB\"\nseed = 5\nbatch = 77\n").unwrap();
    let args = ["train", "--config", text(&path), "--batch", "99", "--print-config"];
    let (printed, _) = output(&mut dimslab(args));
    for line in ["policy = \"none\"", "budget = \"3MiB\"", "seed = 5", "batch = 99"] {
        assert!(printed.contains(line), "{line} is not in\n{printed}");
    }
    fs::write(&path, &printed).unwrap();
    let (again, _) = output(&mut dimslab(["train", "--config", text(&path), "--print-config"]));
    assert_eq!(printed, again);
}

/// A run too long to end by itself, its files in `out`.
fn long_run(out: &str) -> std::process::Child {
    Command::new(env!("CARGO_BIN_EXE_dimslab"))
        .arg("train")
        .args(TINY)
        .args(["--policy", "fiited", "--budget", "2MiB", "--window", "512"])
        .args(["--rows", "1000000000", "--holdout", "100", "--out", out])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_with_the_report_so_far() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("run");
    let mut child = long_run(text(&out));
    let metrics = out.join("metrics.jsonl");
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::metadata(&metrics).map_or(0, |file| file.len()) == 0 {
        assert!(Instant::now() < deadline, "no window within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(stdout.contains("progressive AUC"), "{stdout}");
    let report = report(&out);
    assert_eq!(report["interrupted"], true);
    assert!(report["rows"].as_u64() >= Some(512));
    assert!(report["auc"].is_null());
    assert!(out.join("report.html").exists());
    let (shown, _) = output(&mut dimslab(["inspect", text(&out)]));
    assert!(shown.contains("interrupted"), "{shown}");
}

#[test]
fn a_closed_output_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_dimslab"))
        .args(["generate", "--rows", "200000", "--out", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn windows_are_told_on_request() {
    let args = ["--policy", "none", "--budget", "16MiB", "--rows", "3000", "--window", "1000"];
    let (_, quiet) = output(&mut train(&args));
    assert_eq!(quiet, "");
    let (_, told) = output(train(&args).arg("--verbose"));
    assert_eq!(told.lines().count(), 3, "{told}");
    assert!(told.contains("AUC") && told.contains("16.0 MiB"), "{told}");
}

#[test]
fn a_single_run_leaves_no_half_of_an_earlier_comparison() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("run");
    let tiny = ["--rows", "3000", "--out", text(&out)];
    dimslab(["train"]).args(TINY).args(tiny).assert().success();
    assert!(out.join("full-size/report.json").exists());
    dimslab(["train"]).args(TINY).args(tiny).args(["--policy", "none"]).assert().success();
    assert!(out.join("report.json").exists() && !out.join("full-size").exists());
    let shown = dimslab(["inspect", text(&out)]).assert().success().get_output().stdout.clone();
    assert!(!String::from_utf8(shown).unwrap().contains("full-size"));
}
