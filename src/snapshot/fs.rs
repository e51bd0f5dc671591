//! The little that snapshots ask of a file system, so that the same code runs on a simulated disk that loses power.
//!
//! What survives a power cut: the content of a file whose [`sync`](FsFile::sync) returned, and the entries of a directory
//! whose [`sync_dir`](Fs::sync_dir) returned. Nothing else is relied on.

use std::fs::{self, File, OpenOptions};
use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A file system.
pub(crate) trait Fs: Send + Sync {
    /// Makes a new file. It is an error if there is something of that name.
    fn create(&self, path: &Path) -> io::Result<Box<dyn FsFile>>;
    /// Opens a file for reading.
    fn open(&self, path: &Path) -> io::Result<Box<dyn FsFile>>;
    /// Says that a file will be read soon. Whatever goes wrong shows when it is opened.
    fn will_read(&self, _path: &Path) {}
    /// Makes a new directory; its parent must be there.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Names of a directory's entries, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Renames within one directory, over a file that may be there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory's entries durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// An open file.
pub(crate) trait FsFile: Send + Sync {
    /// Writes all of `bytes` from `offset` on.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Fills `bytes` from `offset` on; a file that ends before that is an error.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Says that [`sync`](Self::sync) comes: the disk may begin with it. Whatever goes wrong shows there.
    fn will_sync(&self) {}
    /// Makes the content durable. After an error the content counts as lost: trying again may succeed and prove nothing.
    fn sync(&mut self) -> io::Result<()>;
}

/// The operating system's.
pub(crate) struct RealFs;

impl Fs for RealFs {
    fn create(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).create_new(true).open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn FsFile>> {
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        Ok(Box::new(file))
    }

    fn will_read(&self, path: &Path) {
        #[cfg(target_os = "linux")]
        if let Ok(file) = File::open(path) {
            // SAFETY: a hint about an open file; no memory is involved.
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_WILLNEED) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = path;
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // An empty path is the parent of a relative name.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        File::open(path)?.sync_all()
    }
}

impl FsFile for File {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn will_sync(&self) {
        #[cfg(target_os = "linux")]
        // SAFETY: a hint about an open file; no memory is involved.
        unsafe {
            libc::sync_file_range(self.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE);
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}
