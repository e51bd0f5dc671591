//! Places that snapshots cannot be written to: full, read-only, forbidden, somebody else's. The error says so, and what was
//! there before stays. Parts that need the rights to mount a file system say so where they have none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use dimslab::snapshot::{Directory, Manifest, RowBlock, RowRef, Section, Snapshot, SnapshotError, Source};
use dimslab::{StoreConfig, TableConfig};

/// So many rows of 64 bytes of weights.
struct Rows {
    step: u64,
    rows: u64,
    next: u64,
}

impl Source for Rows {
    fn manifest(&self) -> Manifest {
        let tables = vec![TableConfig::new("t", 16)];
        Manifest { step: self.step, since: None, store: StoreConfig::new(1 << 20), tables, extra: BTreeMap::new() }
    }

    fn next(&mut self, block: &mut RowBlock) -> Result<bool, SnapshotError> {
        block.clear();
        while self.next < self.rows && block.keys.len() < 1000 {
            let row_state = &[][..];
            block.push(RowRef {
                key: self.next,
                ordinals: &[0, 1, 2, 3],
                utilities: &[1.0; 4],
                weights: &[0.5; 16],
                state: &[0.5; 16],
                row_state,
            });
            self.next += 1;
        }
        Ok(!block.keys.is_empty())
    }

    fn sections(&mut self) -> Result<Vec<Section>, SnapshotError> {
        Ok(Vec::new())
    }
}

fn save(directory: &Directory, step: u64, rows: u64) -> Result<u64, SnapshotError> {
    directory.save(&mut Rows { step, rows, next: 0 }).map(|saved| saved.bytes)
}

/// A file system of its own, unmounted at the end.
struct Mounted(PathBuf);

impl Mounted {
    /// `None` where mounting is not allowed.
    fn tmpfs(at: &Path, size: &str) -> Option<Mounted> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={size}");
        let arguments = ["-t", "tmpfs", "-o", &size, "tmpfs"];
        let mounted =
            Command::new("mount").args(arguments).arg(at).output().is_ok_and(|output| output.status.success());
        mounted.then(|| Mounted(at.to_owned()))
    }

    fn remount(&self, options: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_and_a_read_only_disk_keep_the_old_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Mounted::tmpfs(&folder.path().join("small"), "2m") else {
        println!("skipped: no right to mount a file system");
        return;
    };
    let path = disk.0.join("checkpoint");
    let directory = Directory::create(&path).unwrap();
    let old = save(&directory, 1, 3_000).unwrap();
    for _ in 0..3 {
        let error = save(&directory, 2, 50_000).unwrap_err();
        let text = error.to_string();
        assert!(matches!(&error, SnapshotError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull));
        assert!(text.contains("make room") && text.contains("earlier snapshots are as they were"), "{text}");
        let snapshot = Snapshot::open(&path).unwrap();
        assert_eq!((snapshot.manifest().step, snapshot.verify().unwrap()), (1, old));
    }
    disk.remount("size=40m");
    save(&directory, 2, 50_000).unwrap();
    disk.remount("ro");
    let text = save(&directory, 3, 10).unwrap_err().to_string();
    assert!(text.contains("choose a place you may write to"), "{text}");
    assert!(matches!(Directory::create(&disk.0.join("other")), Err(SnapshotError::Io { .. })));
    let snapshot = Snapshot::open(&path).unwrap();
    snapshot.verify().unwrap();
    assert_eq!((snapshot.manifest().step, directory.list().unwrap().len()), (2, 2));
}

#[test]
fn a_forbidden_place_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("forbidden");
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o500)).unwrap();
    if std::fs::create_dir(path.join("probe")).is_ok() {
        println!("skipped: this user may write everywhere");
        return;
    }
    let text = Directory::create(&path.join("checkpoint")).err().unwrap().to_string();
    assert!(text.contains("ermission denied") && text.contains("choose a place you may write to"), "{text}");
}

#[test]
fn somebody_elses_directory_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("photo.jpg"), "p").unwrap();
    let text = Directory::create(folder.path()).err().unwrap().to_string();
    assert!(text.contains("`photo.jpg`, which is not dimslab's; nothing was written"), "{text}");
    let file = folder.path().join("file");
    std::fs::write(&file, "f").unwrap();
    let text = Directory::create(&file).err().unwrap().to_string();
    assert!(text.contains("choose another place"), "{text}");
    let text = Directory::create(&folder.path().join("no/such")).err().unwrap().to_string();
    assert!(text.contains("cannot create"), "{text}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}
