//! What the disk does by itself, for what is written to it and read from it to be compared with.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};

/// Drops a directory's files from the page cache, so that reads come from the disk.
pub(crate) fn drop_pages(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let file = File::open(entry?.path())?;
        // SAFETY: a call on an open file, without memory.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
    Ok(())
}

fn dd(arguments: &[String]) -> std::io::Result<()> {
    let status = Command::new("dd").args(arguments).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(std::io::Error::other(format!("dd {arguments:?} ends with {status}"))) }
}

/// Writes about so many bytes to `DIR/file` and fsyncs them.
pub(crate) fn dd_write(dir: &Path, bytes: u64) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let count = format!("count={}", bytes.div_ceil(4 << 20));
    let file = format!("of={}", dir.join("file").display());
    dd(&["if=/dev/zero".into(), file, "bs=4M".into(), count, "conv=fsync".into()])
}

/// Reads that file from the disk.
pub(crate) fn dd_read(dir: &Path) -> std::io::Result<()> {
    drop_pages(dir)?;
    dd(&[format!("if={}", dir.join("file").display()), "of=/dev/null".into(), "bs=4M".into()])
}
