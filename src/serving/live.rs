//! A serving file that is exchanged while it is read.

use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;

use super::Tables;
use crate::snapshot::SnapshotError;

/// The file that look-ups go to now. Whoever [`load`](Self::load)ed the one before keeps it until that is dropped, so
/// answers to one request come from one file.
pub struct Live {
    current: RwLock<Arc<Tables>>,
}

impl Live {
    /// Begins with these tables.
    #[must_use]
    pub fn new(tables: Tables) -> Live {
        Live { current: RwLock::new(Arc::new(tables)) }
    }

    /// The tables of now. Ask once for each request or batch: it counts a reference up, under a lock that is held for no
    /// longer than that.
    #[must_use]
    pub fn load(&self) -> Arc<Tables> {
        self.current.read().clone()
    }

    /// Puts other tables in place of those of now, and returns these.
    pub fn swap(&self, tables: Tables) -> Arc<Tables> {
        std::mem::replace(&mut *self.current.write(), Arc::new(tables))
    }

    /// Opens and verifies the file at `path` and takes it in, if it is of another snapshot or kind than the one of now.
    /// Look-ups go on meanwhile, in the old one.
    ///
    /// # Errors
    ///
    /// Those of [`Tables::open`] and [`Tables::verify`]; the tables of now then stay.
    pub fn reload(&self, path: &Path) -> Result<bool, SnapshotError> {
        let tables = Tables::open(path)?;
        let now = self.load();
        if (tables.checksum(), tables.dtype()) == (now.checksum(), now.dtype()) {
            return Ok(false);
        }
        tables.verify()?;
        self.swap(tables);
        Ok(true)
    }
}
