//! The sequence word at the start of every record that is read while it is written.
//!
//! Bit 0: *claimed*, a thread is writing. Bit 1: *live*. The rest counts writes. A writer claims, writes, and stores the
//! next count; a reader copies, and believes the copy if the word did not change meanwhile. The orderings are those of
//! a sequence lock (Boehm, MSPC 2012), each named where it stands.

use crate::failpoint::{Point, reach};
use crate::sync::{AtomicU32, Ordering, fence, spin_wait};

const CLAIMED: u32 = 1;
const LIVE: u32 = 2;
/// One more write.
const VERSION: u32 = 4;
/// Failed attempts after which a reader takes the claim, so that it cannot starve.
#[cfg(not(any(loom, shuttle)))]
const PATIENCE: u32 = 128;
#[cfg(any(loom, shuttle))]
const PATIENCE: u32 = 2;

/// The record has gone from this index; ask the directory again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// Why a record was not claimed at once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unclaimed {
    Gone,
    Busy,
}

/// The right to write a record. Released when dropped, so a panic leaves the record usable.
pub(crate) struct Claim<'s> {
    /// The record, its sequence word first.
    pub(crate) record: &'s [AtomicU32],
    /// What the sequence word is set to on release.
    after: u32,
}

impl Claim<'_> {
    /// The record is not live any more once the claim is released.
    pub(crate) fn kill(&mut self) {
        self.after &= !LIVE;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // Release: publishes all that was written under the claim, and, for a row that moved, that the directory has
        // its new index. Pairs with the Acquire in `read`, `try_claim` and `is_live`.
        self.record[0].store(self.after, Ordering::Release);
    }
}

/// Whether a record is live. Acquire: pairs with the Release of the claim under which it went.
#[inline]
pub(crate) fn is_live(record: &[AtomicU32]) -> bool {
    record[0].load(Ordering::Acquire) & LIVE != 0
}

/// Whether somebody has a record claimed at this moment.
#[cfg(fuzzing)]
pub(crate) fn is_claimed(record: &[AtomicU32]) -> bool {
    record[0].load(Ordering::Relaxed) & CLAIMED != 0
}

/// Makes a record live that nobody else can reach yet, unclaimed, with a count that goes on from its last use, so that
/// not even a wild reader could take one for the other. Relaxed: published with the record's index.
pub(crate) fn start(record: &[AtomicU32]) {
    let last = record[0].load(Ordering::Relaxed) & !(LIVE | CLAIMED);
    record[0].store(last.wrapping_add(VERSION) | LIVE, Ordering::Relaxed);
}

/// Ends a record that was started and never published.
pub(crate) fn end_unpublished(record: &[AtomicU32]) {
    record[0].store(record[0].load(Ordering::Relaxed) & !LIVE, Ordering::Relaxed);
}

/// Claims a record if nobody has it.
#[inline]
pub(crate) fn try_claim(record: &[AtomicU32]) -> Result<Claim<'_>, Unclaimed> {
    let before = record[0].load(Ordering::Relaxed);
    if before & LIVE == 0 {
        return Err(Unclaimed::Gone);
    }
    let free = before & !CLAIMED;
    // Acquire: pairs with the Release of the last claim's drop, so this thread sees what the last writer wrote.
    match record[0].compare_exchange(free, free | CLAIMED, Ordering::Acquire, Ordering::Relaxed) {
        Ok(_) => {
            // Release fence: pairs with the Acquire fence in `read`; see there.
            fence(Ordering::Release);
            let claim = Claim { record, after: free.wrapping_add(VERSION) };
            reach(Point::Claimed);
            Ok(claim)
        }
        Err(_) => Err(Unclaimed::Busy),
    }
}

/// Claims a record, waiting for the bounded copy of whoever has it.
#[inline]
pub(crate) fn claim(record: &[AtomicU32]) -> Result<Claim<'_>, Gone> {
    let mut attempt = 0;
    loop {
        match try_claim(record) {
            Ok(claim) => return Ok(claim),
            Err(Unclaimed::Gone) => return Err(Gone),
            Err(Unclaimed::Busy) => spin_wait(attempt),
        }
        attempt = attempt.saturating_add(1);
    }
}

/// Returns a copy that is some state between two writes. `copy` reads the record with relaxed loads and may return
/// `None` when what it meets can only be a record in the middle of a change.
#[inline]
pub(crate) fn read<T>(record: &[AtomicU32], mut copy: impl FnMut() -> Option<T>) -> Result<T, Gone> {
    for attempt in 0..PATIENCE {
        // Acquire: pairs with the Release of `Claim`'s drop, so the copy sees all that the last writer wrote.
        let before = record[0].load(Ordering::Acquire);
        if before & LIVE == 0 {
            return Err(Gone);
        }
        if before & CLAIMED == 0 {
            let copied = copy();
            // Acquire fence: pairs with the Release fence in `try_claim`. If the copy saw anything of a later writer,
            // the load below sees that writer's claim.
            fence(Ordering::Acquire);
            if let Some(copied) = copied
                && record[0].load(Ordering::Relaxed) == before
            {
                return Ok(copied);
            }
        }
        spin_wait(attempt);
    }
    read_claimed(record, copy)
}

/// The way out for a reader that is always overtaken.
#[cold]
fn read_claimed<T>(record: &[AtomicU32], mut copy: impl FnMut() -> Option<T>) -> Result<T, Gone> {
    let _claim = claim(record)?;
    copy().ok_or(Gone)
}
