//! Waiting for a store's memory to be where it stays.

use std::io;
use std::time::Duration;

/// Until nothing more of this process comes to huge pages, superblocks or directories.
pub(crate) fn wait_for_moves() -> io::Result<()> {
    let in_huge_pages = || -> io::Result<String> {
        let all = std::fs::read_to_string("/proc/self/smaps_rollup")?;
        Ok(all.lines().filter(|line| line.starts_with("AnonHugePages:")).collect())
    };
    let mut before = String::new();
    while std::mem::replace(&mut before, in_huge_pages()?) != before {
        std::thread::sleep(Duration::from_secs(3));
    }
    Ok(())
}
