//! What one snapshot leaves to the next.

use super::Inner;
use super::table::Table;
use crate::reclaim::Grace;
use crate::sync::{AtomicBool, Mutex, Ordering};

/// A table's number and the key of a row that was removed from it.
pub(super) type Removed = (u32, u64);

/// Which snapshot an increment would be of, and what was removed since.
pub(super) struct Saved {
    state: Mutex<State>,
    /// Whether removed keys are noted.
    notes: AtomicBool,
    /// Most keys that are noted.
    most: usize,
}

#[derive(Default)]
pub(super) struct State {
    /// A snapshot is being taken.
    pub(super) running: bool,
    /// A snapshot was given up with rows left in the other phase, before this was over.
    pub(super) left: Option<Grace>,
    /// The step of the snapshot that the rows' marks are of.
    pub(super) base: Option<u64>,
    pub(super) removed: Vec<Removed>,
}

impl Saved {
    pub(super) fn new(bytes: u64) -> Saved {
        // Two lists of them: those of the snapshot that is being taken, and those since.
        let most = bytes as usize / 2 / size_of::<Removed>();
        Saved { state: Mutex::new(State::default()), notes: AtomicBool::new(false), most }
    }

    pub(super) fn with<T>(&self, body: impl FnOnce(&mut State) -> T) -> T {
        body(&mut self.state.lock())
    }

    /// From now on removed keys are noted. Returns those that were noted so far.
    pub(super) fn note_from_now(&self) -> Vec<Removed> {
        self.notes.store(true, Ordering::Relaxed);
        self.with(|state| std::mem::replace(&mut state.removed, Vec::with_capacity(self.most)))
    }

    /// Removed keys are of no use any more: the next snapshot is a full one.
    pub(super) fn forget(&self) {
        self.notes.store(false, Ordering::Relaxed);
        self.with(|state| {
            state.base = None;
            state.removed = Vec::new();
        });
    }

    /// The snapshot of that step is where it will be found again: the next one may be an increment on it, unless more was
    /// removed since than can be noted.
    pub(super) fn commit(&self, step: u64) {
        if self.notes.load(Ordering::Relaxed) {
            self.with(|state| state.base = Some(step));
        }
    }
}

impl Inner {
    /// A row has gone: the next increment says so.
    pub(super) fn note_removed(&self, table: &Table, key: u64) {
        // Relaxed: whoever takes a snapshot while rows go takes it before or after.
        if !self.saved.notes.load(Ordering::Relaxed) {
            return;
        }
        let noted = self.saved.with(|state| {
            let room = state.removed.len() < self.saved.most;
            if room {
                state.removed.push((table.number(), key));
            }
            room
        });
        if !noted {
            self.saved.forget();
        }
    }
}
