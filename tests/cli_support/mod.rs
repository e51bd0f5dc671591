//! What the tests of the command share.
#![expect(dead_code, reason = "each test file uses its own part of these")]

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

/// Flags of a model small enough for tests.
pub(crate) const TINY: [&str; 10] = ["--bottom", "16", "--top", "16", "--dim", "8", "--batch", "256", "--threads", "1"];

/// The command with `args`.
pub(crate) fn dimslab<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dimslab"));
    command.args(args);
    command
}

/// `train` with a tiny model and `args`.
pub(crate) fn train(args: &[&str]) -> Command {
    let mut command = dimslab(["train"]);
    command.args(TINY).args(args);
    command
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are plain text")
}

/// What the command wrote to standard output and to standard error.
pub(crate) fn output(command: &mut Command) -> (String, String) {
    let output = command.output().expect("the command runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Runs a command that must end with exit code 2 and one `error:` line; returns that line.
pub(crate) fn input_error(command: &mut Command) -> String {
    let output = command.output().expect("the command runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    errors[0].to_owned()
}

/// The `report.json` in `dir`.
pub(crate) fn report(dir: &Path) -> Value {
    let text = std::fs::read_to_string(dir.join("report.json")).expect("a report");
    serde_json::from_str(&text).expect("JSON")
}

/// A report without what depends on time or on the machine, by its own list.
pub(crate) fn comparable(mut report: Value) -> Value {
    let varies = report["varies"].as_array().expect("a list of fields").clone();
    for path in varies {
        let path = path.as_str().expect("a field").to_owned();
        let (parents, name) = path.rsplit_once('.').unwrap_or(("", &path));
        let parent =
            parents.split('.').filter(|part| !part.is_empty()).fold(&mut report, |value, part| &mut value[part]);
        let removed = parent.as_object_mut().expect("an object").remove(name);
        assert!(removed.is_some(), "{path} is not in the report");
    }
    report
}

/// Lines of the embedded stream in Criteo's format.
pub(crate) fn criteo_lines(rows: u64, seed: u64) -> Vec<String> {
    let (rows, seed) = (rows.to_string(), seed.to_string());
    let args = ["generate", "--rows", &rows, "--seed", &seed, "--out", "-"];
    let (lines, errors) = output(&mut dimslab(args));
    assert_eq!(errors, "");
    lines.lines().map(str::to_owned).collect()
}
