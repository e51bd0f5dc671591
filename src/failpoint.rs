//! Places in the middle of something, where a test can stop, break or end a thread.
//!
//! Wherever shared state has taken one step of several, the code says so with [`reach`], or, before a system call that
//! may fail, with [`fault`]. In this crate's own tests a thread can be armed to stall, panic or fail there. In every
//! other build both are nothing at all.

macro_rules! points {
    ($($(#[$what:meta])* $point:ident,)*) => {
        /// What has just been done, or is about to be done where it says so.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Point {
            $($(#[$what])* $point,)*
        }

        #[cfg(all(test, not(any(loom, shuttle))))]
        impl Point {
            pub(crate) const ALL: &[Point] = &[$(Point::$point),*];
        }

        // Sets of points are bits of one word.
        #[cfg(all(test, not(any(loom, shuttle))))]
        const _: () = assert!(Point::ALL.len() <= 64);
    };
}

points! {
    // ===== The system
    /// About to reserve the address range.
    Reserve,
    /// About to give a superblock's memory back; no slab has it any more.
    Decommit,
    /// About to ask which pages are in memory.
    Residency,
    // ===== Slab
    /// A word of a superblock that lends was seen to have free bits; it is about to be taken.
    SlotsSeen,
    /// A word of free bits is in this thread's hands only.
    SlotsTaken,
    /// A superblock is not on offer, and will be looked at once more.
    Withdrawn,
    /// Free bits are set again, and the superblock is not on offer yet.
    SlotsPutBack,
    /// A superblock's bytes are reserved; which one is open.
    SuperblockReserved,
    /// A superblock is not vacant any more, and nobody's yet.
    SuperblockTaken,
    /// It has an owner and offers nothing yet.
    SuperblockAcquired,
    /// Some of its free bits are set.
    SuperblockHalfCommitted,
    /// Some words of a superblock were taken to retire it.
    SuperblockHalfRetired,
    /// All were, and it is marked; its return is not yet deferred.
    SuperblockRetired,
    /// Its memory was given back; it is not vacant yet.
    Decommitted,
    /// It is vacant; its bytes are not released yet.
    SuperblockVacant,
    // ===== Directory
    /// Bytes for a segment's successors are reserved.
    SuccessorReserved,
    /// One more word of a segment is frozen.
    WordFrozen,
    /// All are.
    SegmentFrozen,
    /// Its successors are made and not published.
    SuccessorBuilt,
    /// They are published; no slot leads to them yet.
    SegmentReplaced,
    /// One more slot was looked at and, if need be, moved on.
    SlotSettled,
    /// About to move a slot on.
    SlotAdvancing,
    /// About to put a node in a slot's place.
    SlotDeepening,
    /// No slot leads to a replaced segment any more; it is not yet retired.
    SegmentUnlinked,
    /// A retired segment is freed; its bytes are not released yet.
    SegmentFreed,
    // ===== Rows
    /// A row, of whichever kind, is claimed.
    Claimed,
    /// Some of a row was copied.
    RowHalfRead,
    /// A chunk of a claimed row was stepped.
    ChunkStepped,
    /// A shared row is claimed, and its state stepped.
    SharedRowStepped,
    /// A head record is written; no directory names it.
    RowWritten,
    /// The directory has it; it is not counted.
    RowEntered,
    /// A chunk was added to a claimed row, and is not counted.
    ChunkGrown,
    /// A chunk was taken out of a claimed row, and is not retired.
    ChunkTaken,
    /// A row is dead; the directory still has it.
    RowKilled,
    /// It is out of the directory; its records are not retired.
    RowRemoved,
    /// A tail's content is in another record; no link leads there.
    TailCopied,
    /// A head's content is in another record; the directory names the old one.
    HeadCopied,
    /// The directory names the new head; the old one is still claimed and live.
    HeadPublished,
    // ===== Snapshots
    /// The phase is changed, under the rounds' lock.
    SnapshotBegun,
    /// A claimed row's image is kept; its phase is not set.
    ImageKept,
    /// The snapshot has copied a claimed row; its phase is not set.
    RowSaved,
    // ===== Reclamation
    /// Records are counted as retired; their release is not deferred.
    RecordsRetired,
    /// In the deferred call: about to free one more record.
    RecordFreeing,
    // ===== A round
    /// The round's lock is held.
    RoundBegun,
    /// One more row's utilities are in the new units.
    UnitsChanged,
    /// One more row was measured.
    RowMeasured,
    /// All rows were measured, and the threshold is found.
    CutBegins,
    /// One more row was cut.
    RowCut,
    /// Superblocks are marked to be emptied.
    EvacuationBegun,
    /// One more row was looked at, and moved if need be.
    RowEvacuated,
    /// Compaction is over; empty superblocks are not retired.
    Compacted,
    /// All is done but releasing the round's lock.
    RoundEnding,
}

/// Says that a point is reached.
#[cfg(any(not(any(test, fuzzing)), loom, shuttle))]
#[inline(always)]
pub(crate) fn reach(_point: Point) {}

/// Says that a point is reached, where a fuzz case may let other simulated threads run.
#[cfg(all(fuzzing, not(any(test, loom))))]
pub(crate) use crate::interleave::reach;

/// Says that a system call comes next, and fails in its place if a test wants it to.
#[cfg(any(not(test), loom, shuttle))]
#[inline(always)]
pub(crate) fn fault(_point: Point) -> std::io::Result<()> {
    Ok(())
}

#[cfg(all(test, not(any(loom, shuttle))))]
pub(crate) use armed::{Action, Trap, arm, fault, reach};

#[cfg(all(test, not(any(loom, shuttle))))]
mod armed {
    use super::Point;
    use crate::sync::{AtomicU64, Ordering};
    use parking_lot::{Condvar, Mutex};
    use std::io;
    use std::sync::Arc;
    use std::thread::ThreadId;
    use std::time::Duration;

    /// What happens to the thread.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Action {
        /// It waits there, once, until it is released.
        Stall,
        /// It panics there, once.
        Panic,
        /// The system call fails, every time.
        Fail,
    }

    #[derive(Default)]
    struct State {
        /// Times to pass by before.
        left: u32,
        reached: bool,
        released: bool,
    }

    struct Armed {
        thread: ThreadId,
        point: Point,
        action: Action,
        state: Mutex<State>,
        changed: Condvar,
    }

    static ARMED: Mutex<Vec<Arc<Armed>>> = Mutex::new(Vec::new());
    /// One bit for each point that some thread is armed for, so that all others pay for one load.
    static WATCHED: AtomicU64 = AtomicU64::new(0);

    fn watch(armed: &[Arc<Armed>]) {
        WATCHED.store(armed.iter().fold(0, |bits, armed| bits | 1 << armed.point as u8), Ordering::Relaxed);
    }

    /// A thread that is armed, until this is dropped.
    pub(crate) struct Trap(Arc<Armed>);

    /// Arms a thread: it passes the point `skip` times, and is caught the next time.
    pub(crate) fn arm(thread: ThreadId, point: Point, skip: u32, action: Action) -> Trap {
        let state = Mutex::new(State { left: skip, ..State::default() });
        let armed = Arc::new(Armed { thread, point, action, state, changed: Condvar::new() });
        let mut all = ARMED.lock();
        all.push(Arc::clone(&armed));
        watch(&all);
        Trap(armed)
    }

    impl Trap {
        /// Whether the thread has been there.
        pub(crate) fn reached(&self) -> bool {
            self.0.state.lock().reached
        }

        /// Waits until the thread is there. Returns whether it came in time.
        pub(crate) fn wait(&self, limit: Duration) -> bool {
            let mut state = self.0.state.lock();
            self.0.changed.wait_while_for(&mut state, |state| !state.reached, limit);
            state.reached
        }
    }

    impl Drop for Trap {
        fn drop(&mut self) {
            let mut all = ARMED.lock();
            all.retain(|armed| !Arc::ptr_eq(armed, &self.0));
            watch(&all);
            drop(all);
            self.0.state.lock().released = true;
            self.0.changed.notify_all();
        }
    }

    pub(crate) fn reach(point: Point) {
        // Points that are no system calls have nothing to report.
        let _ = fault(point);
    }

    pub(crate) fn fault(point: Point) -> io::Result<()> {
        if WATCHED.load(Ordering::Relaxed) >> point as u8 & 1 == 0 {
            return Ok(());
        }
        let me = std::thread::current().id();
        let found = ARMED.lock().iter().find(|armed| armed.thread == me && armed.point == point).map(Arc::clone);
        let Some(armed) = found else { return Ok(()) };
        let mut state = armed.state.lock();
        if state.left > 0 {
            state.left -= 1;
            return Ok(());
        }
        if armed.action == Action::Fail {
            state.reached = true;
            return Err(io::Error::other("injected"));
        }
        if std::mem::replace(&mut state.reached, true) {
            return Ok(());
        }
        armed.changed.notify_all();
        match armed.action {
            Action::Stall => armed.changed.wait_while(&mut state, |state| !state.released),
            _ => {
                drop(state);
                // Past the hook, which would print.
                std::panic::resume_unwind(Box::new("injected"));
            }
        }
        Ok(())
    }
}
