//! Ctrl-C: the first asks the run to end after its batch, the second ends the process.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use crate::cli::INTERRUPTED;
use crate::cli::error::CliError;
use crate::sync::{AtomicBool, Ordering};

/// Installs the handler and returns the flag that the first Ctrl-C sets.
pub(crate) fn stop_flag() -> Result<Arc<AtomicBool>, CliError> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let handler = move || {
        // Relaxed: the flag alone matters, it publishes no other data.
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        if io::stderr().is_terminal() {
            // Without a place to tell it the run still ends.
            let _ = writeln!(io::stderr(), "\nending after this batch; Ctrl-C again ends at once");
        }
    };
    ctrlc::set_handler(handler).map_err(|error| CliError::Internal(format!("cannot listen for Ctrl-C: {error}")))?;
    Ok(stop)
}
