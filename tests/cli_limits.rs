//! The command under limits of the system: exit code 2, one line that says what to do, and no panic.
#![cfg(all(feature = "cli", target_os = "linux"))]

mod cli_support;

use cli_support::input_error;

/// The command with no more than so many KiB of address space.
fn limited(kib: u64, args: &[&str]) -> assert_cmd::Command {
    let mut command = assert_cmd::Command::new("sh");
    command.args(["-c", &format!("ulimit -v {kib} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_dimslab")]);
    command.args(args);
    command
}

#[test]
fn an_address_range_that_is_refused_is_named_with_what_to_do() {
    for command in ["train", "soak"] {
        let mut args = vec![command, "--budget", "32GiB"];
        args.extend(if command == "train" { ["--rows", "1000"] } else { ["--ops", "100"] });
        let error = input_error(&mut limited(8 << 20, &args));
        for part in ["address space", "lower the budget", "address-space limit"] {
            assert!(error.contains(part), "{command}: {error}");
        }
    }
}

/// The limit alone does no harm.
#[test]
fn a_budget_that_fits_the_limit_works() {
    limited(8 << 20, &["soak", "--ops", "2000", "--budget", "2MiB"]).assert().success();
}
