//! The `dimslab` command.
fn main() -> std::process::ExitCode {
    dimslab::cli::main()
}
