//! Bad flags, bad data and bad places: exit code 2, one line that says what, where and what to do, and no panic.
#![cfg(feature = "cli")]

mod cli_support;

use std::fs;
use std::path::{Path, PathBuf};

use cli_support::{criteo_lines, dimslab, input_error, output, report, text, train};
use tempfile::{TempDir, tempdir};

/// A Criteo file of `lines` in a directory of its own.
fn criteo_file(lines: &[String]) -> (TempDir, PathBuf) {
    let dir = tempdir().unwrap();
    let path = dir.path().join("log.txt");
    fs::write(&path, lines.join("\n") + "\n").unwrap();
    (dir, path)
}

fn csv_file(content: &str) -> (TempDir, PathBuf) {
    let dir = tempdir().unwrap();
    let path = dir.path().join("log.csv");
    fs::write(&path, content).unwrap();
    (dir, path)
}

fn train_on(path: &Path, args: &[&str]) -> assert_cmd::Command {
    let mut command = train(&["--data", text(path), "--policy", "none", "--budget", "16MiB"]);
    command.args(args);
    command
}

#[test]
fn help_names_every_command_and_flag() {
    let (help, _) = output(&mut dimslab(["--help"]));
    for command in ["train", "generate", "inspect", "soak"] {
        assert!(help.contains(command), "{help}");
    }
    let (help, _) = output(&mut dimslab(["train", "--help"]));
    for flag in [
        "--data",
        "--format",
        "--columns",
        "--dim",
        "--chunk",
        "--budget",
        "--policy",
        "--optimizer",
        "--lr",
        "--dense-lr",
        "--dense-optimizer",
        "--batch",
        "--threads",
        "--seed",
        "--holdout",
        "--rows",
        "--deterministic",
        "--skip-bad-lines",
        "--config",
        "--out",
        "--bottom",
        "--top",
        "--window",
        "--print-config",
    ] {
        assert!(help.contains(flag), "{flag} is not in the help");
    }
    dimslab(["--version"]).assert().success();
}

#[test]
fn wrong_flags_are_named() {
    assert!(input_error(&mut train(&["--bugdet", "1"])).contains("--bugdet"));
    assert!(input_error(&mut train(&["--budget", "12 parsecs"])).contains("64MiB"));
    assert!(input_error(&mut train(&["--policy", "lru"])).contains("lru"));
    assert!(input_error(&mut train(&["--lr", "-1"])).contains("--lr"));
    assert!(input_error(&mut train(&["--rows", "100", "--holdout", "100"])).contains("--holdout"));
    assert!(input_error(&mut dimslab(["trian"])).contains("trian"));
}

#[test]
fn settings_the_store_cannot_meet_are_named() {
    let budget = ["--rows", "1000", "--policy", "fiited", "--budget"];
    let with = |value| input_error(train(&budget).arg(value));
    assert!(with("1kB").contains("budget"));
    let policy = ["--rows", "1000", "--policy", "none", "--budget", "8MiB"];
    assert!(input_error(train(&policy).args(["--chunk", "5"])).contains("chunk"));
}

#[test]
fn a_missing_file_is_named() {
    let error = input_error(&mut train_on(Path::new("/no/such/log.txt"), &[]));
    assert!(error.contains("/no/such/log.txt"), "{error}");
}

#[test]
fn a_missing_column_is_named_with_those_that_exist() {
    let (_dir, path) = csv_file("click,user,item\n1,a,b\n0,c,d\n");
    let args = ["--format", "csv", "--columns", "label=clicked,cat=*"];
    let error = input_error(&mut train_on(&path, &args));
    for part in ["log.csv", "clicked", "user"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_csv_needs_columns() {
    let (_dir, path) = csv_file("click,user\n1,a\n");
    assert!(input_error(&mut train_on(&path, &["--format", "csv"])).contains("--columns"));
}

#[test]
fn a_malformed_line_is_placed_and_what_was_trained_is_reported() {
    let mut lines = criteo_lines(2000, 3);
    lines[1499] = lines[1499].replacen('\t', "\tx", 1);
    let (dir, path) = criteo_file(&lines);
    let out = dir.path().join("run");
    let error = input_error(&mut train_on(&path, &["--out", text(&out)]));
    for part in ["log.txt:1500:", "column 2", "expected"] {
        assert!(error.contains(part), "{error}");
    }
    let report = report(&out);
    // Whole batches of 256 rows before line 1500.
    assert_eq!(report["rows"], 1280);
    assert!(report["error"].as_str().unwrap().contains("log.txt:1500:"));
    assert!(report["progressive"]["auc"].is_f64() && report["auc"].is_null());
}

#[test]
fn bad_lines_are_skipped_and_counted_up_to_a_number() {
    let mut lines = criteo_lines(1000, 4);
    for i in [10, 500, 900] {
        lines[i] = "not a row".to_owned();
    }
    let (dir, path) = criteo_file(&lines);
    let out = dir.path().join("run");
    let args = ["--skip-bad-lines", "3", "--out", text(&out)];
    let (stdout, stderr) = output(&mut train_on(&path, &args));
    assert!(stdout.contains("3 malformed lines"), "{stdout} {stderr}");
    let report = report(&out);
    assert_eq!((&report["rows"], &report["skipped_lines"]), (&997.into(), &3.into()));
    let error = input_error(&mut train_on(&path, &["--skip-bad-lines", "2"]));
    assert!(error.contains("log.txt:901:"), "{error}");
}

#[test]
fn a_label_that_is_no_number_is_placed() {
    let mut lines = criteo_lines(20, 5);
    lines[6].replace_range(0..1, "NaN");
    let (_dir, path) = criteo_file(&lines);
    let error = input_error(&mut train_on(&path, &[]));
    for part in ["log.txt:7:", "column 1", "NaN"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_truncated_archive_is_told_from_its_end() {
    let dir = tempdir().unwrap();
    for name in ["log.gz", "log.zst"] {
        let path = dir.path().join(name);
        dimslab(["generate", "--rows", "3000", "--out", text(&path)]).assert().success();
        train_on(&path, &[]).assert().success();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() * 2 / 3]).unwrap();
        let error = input_error(&mut train_on(&path, &[]));
        assert!(error.contains(name) && error.contains("truncated"), "{error}");
    }
}

#[test]
fn an_empty_file_is_no_run() {
    let (_dir, path) = csv_file("");
    assert!(input_error(&mut train_on(&path, &[])).contains("no rows"));
}

#[test]
fn the_configuration_file_is_checked() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("run.toml");
    fs::write(&path, "dim = 8\n\nbugdet = \"1MiB\"\n").unwrap();
    let error = input_error(&mut train(&["--config", text(&path)]));
    for part in ["run.toml", "line 3", "bugdet", "budget"] {
        assert!(error.contains(part), "{error}");
    }
    fs::write(&path, "budget = \"lots\"\n").unwrap();
    assert!(input_error(&mut train(&["--config", text(&path)])).contains("lots"));
    let error = input_error(&mut train(&["--config", "/no/such.toml"]));
    assert!(error.contains("/no/such.toml"), "{error}");
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    let short = ["--rows", "1000", "--policy", "none"];
    for place in [file.join("run"), file.clone()] {
        let error = input_error(train(&short).args(["--out", text(&place)]));
        assert!(error.contains(text(&file)), "{error}");
    }
    let error = input_error(train(&short).args(["--out", text(dir.path())]));
    assert!(error.contains("file") && error.contains("empty or a new directory"), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let error = input_error(&mut dimslab(["generate", "--rows", "1", "--out", text(&file.join("x"))]));
    assert!(error.contains(text(&file)), "{error}");
}

#[test]
fn a_file_that_is_there_is_overwritten_on_demand_only() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("stream.txt");
    fs::write(&path, "mine").unwrap();
    let generate = ["generate", "--rows", "3", "--out", text(&path)];
    let error = input_error(&mut dimslab(generate));
    for part in [text(&path), "there already", "--force"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    dimslab(generate).arg("--force").assert().success();
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3);
    fs::remove_file(&path).unwrap();
    dimslab(generate).assert().success();
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3);
    dimslab(["generate", "--rows", "3", "--out", "/dev/null"]).assert().success();
}

#[test]
fn nothing_is_made_for_a_run_whose_input_does_not_open() {
    let dir = tempdir().unwrap();
    let out = dir.path().join("runs/first");
    input_error(&mut train_on(Path::new("/no/such/log.txt"), &["--out", text(&out)]));
    let (_data, csv) = csv_file("click,user\n1,a\n");
    let columns = ["--format", "csv", "--columns", "label=clicked,cat=*", "--out", text(&out)];
    input_error(&mut train_on(&csv, &columns));
    // Nor where the store cannot be made.
    input_error(&mut train(&["--rows", "1000", "--policy", "fiited", "--budget", "1kB", "--out", text(&out)]));
    assert!(!dir.path().join("runs").exists());
    train(&["--rows", "1000", "--policy", "none", "--out", text(&out)]).assert().success();
    assert!(out.join("report.json").exists());
}

#[test]
fn an_unclosed_quote_is_placed() {
    let (_dir, path) = csv_file("click,user,item\n1,a,b\n0,c,\"d\n1,e,f\n0,g,h\n");
    let columns = ["--format", "csv", "--columns", "label=click,cat=*"];
    let error = input_error(&mut train_on(&path, &columns));
    assert!(error.contains("log.csv:3:") && error.contains("quote"), "{error}");
}

#[test]
fn settings_of_a_policy_need_that_policy() {
    let none = ["--rows", "1000", "--policy", "none"];
    for (flag, value) in [
        ("--decay", "5x"),
        ("--period", "500"),
        ("--warmup", "100"),
        ("--hysteresis", "0.2"),
        ("--headroom", "0.04"),
        ("--sketch", "0.03125"),
        ("--round-share", "0.1"),
    ] {
        let error = input_error(train(&none).args([flag, value]));
        assert!(error.contains(flag) && error.contains("--policy fiited"), "{error}");
    }
    let dir = tempdir().unwrap();
    let path = dir.path().join("run.toml");
    fs::write(&path, "policy = \"none\"\nround-share = 0.5\n").unwrap();
    let error = input_error(&mut train(&["--config", text(&path)]));
    assert!(error.contains("round-share"), "{error}");
    // A flag beats the file, with all that belongs to it.
    fs::write(&path, "policy = \"fiited\"\nround-share = 0.5\n").unwrap();
    let args = ["--config", text(&path), "--print-config"];
    train(&args).assert().success();
    let (printed, _) = output(train(&args).args(["--policy", "none"]));
    assert!(printed.contains("policy = \"none\"") && !printed.contains("round-share"), "{printed}");
}

#[test]
fn inspect_tells_what_is_no_run() {
    let dir = tempdir().unwrap();
    let error = input_error(&mut dimslab(["inspect", text(dir.path())]));
    assert!(error.contains("no run"), "{error}");
    fs::write(dir.path().join("report.json"), "{").unwrap();
    let error = input_error(&mut dimslab(["inspect", text(dir.path())]));
    assert!(error.contains("report.json"), "{error}");
}
