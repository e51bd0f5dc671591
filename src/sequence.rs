//! The sequence word at the start of every record that is read while it is written.
//!
//! Bit 0: *claimed*, a thread is writing. Bit 1: *live*. Bit 2: the *phase* in which the row was last written or saved.
//! Bit 3: *changed* since it was last saved. The rest counts writes. A writer claims, writes, and stores the next count; a
//! reader copies, and believes the copy if the word did not change meanwhile. The orderings are those of a sequence lock
//! (Boehm, MSPC 2012), each named where it stands. What the phase is for: `moment.rs`.

use crate::failpoint::{Point, reach};
use crate::sync::{AtomicU32, Ordering, fence, spin_wait};

const CLAIMED: u32 = 1;
const LIVE: u32 = 2;
/// Which of two phases a row is in: see `moment.rs`.
pub(crate) const PHASE: u32 = 4;
/// The row was written since it was last saved.
const CHANGED: u32 = 8;
/// One more write.
const VERSION: u32 = 16;
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

    /// The row's phase: 0 or [`PHASE`].
    #[inline]
    pub(crate) fn phase(&self) -> u32 {
        self.after & PHASE
    }

    /// Whether the row was changed between when it was last saved and this claim.
    pub(crate) fn was_changed(&self) -> bool {
        self.before() & CHANGED != 0
    }

    /// Nothing is changed under this claim: the row counts as changed only if it did before.
    pub(crate) fn unchanged(&mut self) {
        self.after = self.after & !CHANGED | self.before() & CHANGED;
    }

    /// The row is saved, or need not be, as it was before this claim: it goes over to the other phase.
    pub(crate) fn change_phase(&mut self) {
        self.after ^= PHASE;
    }

    /// The row counts as not changed since it was saved.
    pub(crate) fn clean(&mut self) {
        self.after &= !CHANGED;
    }

    /// Relaxed: nobody but who has the claim writes the word.
    fn before(&self) -> u32 {
        self.record[0].load(Ordering::Relaxed)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // Release: publishes all that was written under the claim, and, for a row that moved, that the directory has
        // its new index. Pairs with the Acquire in `read`, `try_claim` and `is_live`.
        self.record[0].store(self.after, Ordering::Release);
    }
}

/// Whether a record is live and in the other phase than `phase`. Relaxed: what was kept of one that is not is found under
/// the lock of what is kept, which whoever kept it had before.
#[inline]
pub(crate) fn is_of_before(record: &[AtomicU32], phase: u32) -> bool {
    let word = record[0].load(Ordering::Relaxed);
    word & LIVE != 0 && (word ^ phase) & PHASE != 0
}

/// Whether a record is live. Acquire: pairs with the Release of the claim under which it went.
#[inline]
pub(crate) fn is_live(record: &[AtomicU32]) -> bool {
    record[0].load(Ordering::Acquire) & LIVE != 0
}

/// Whether somebody has a record claimed at this moment.
#[cfg(any(fuzzing, test))]
pub(crate) fn is_claimed(record: &[AtomicU32]) -> bool {
    record[0].load(Ordering::Relaxed) & CLAIMED != 0
}

/// Makes a record live that nobody else can reach yet, unclaimed, with a count that goes on from its last use, so that
/// not even a wild reader could take one for the other. Relaxed: published with the record's index.
pub(crate) fn start(record: &[AtomicU32], phase: u32) {
    start_with(record, CHANGED | phase);
}

/// The same for a row that is as a snapshot has it.
pub(crate) fn start_saved(record: &[AtomicU32], phase: u32) {
    start_with(record, phase);
}

/// The same for a record that takes the place of a claimed one: its phase, and whether it was changed, are the other's.
pub(crate) fn start_instead(record: &[AtomicU32], of: &Claim<'_>) {
    start_with(record, of.after & (CHANGED | PHASE));
}

fn start_with(record: &[AtomicU32], bits: u32) {
    let last = record[0].load(Ordering::Relaxed) & !(LIVE | CLAIMED | PHASE | CHANGED);
    record[0].store(last.wrapping_add(VERSION) | LIVE | bits, Ordering::Relaxed);
}

/// Ends a record that was started and never published.
pub(crate) fn end_unpublished(record: &[AtomicU32]) {
    record[0].store(record[0].load(Ordering::Relaxed) & !LIVE, Ordering::Relaxed);
}

/// Claims a record if nobody has it. It counts as changed afterwards, unless the claim is told otherwise.
#[inline(always)]
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
            let claim = Claim { record, after: free.wrapping_add(VERSION) | CHANGED };
            reach(Point::Claimed);
            Ok(claim)
        }
        Err(_) => Err(Unclaimed::Busy),
    }
}

/// Claims a record, waiting for the bounded copy of whoever has it.
#[inline(always)]
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
#[inline(always)]
pub(crate) fn read<T>(record: &[AtomicU32], mut copy: impl FnMut() -> Option<T>) -> Result<T, Gone> {
    match try_read(record, &mut copy) {
        Ok(Some(copied)) => Ok(copied),
        Ok(None) => read_patiently(record, copy),
        Err(gone) => Err(gone),
    }
}

/// One attempt; `None` if a writer was there.
#[inline(always)]
fn try_read<T>(record: &[AtomicU32], copy: &mut impl FnMut() -> Option<T>) -> Result<Option<T>, Gone> {
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
            return Ok(Some(copied));
        }
    }
    Ok(None)
}

/// For a reader that met a writer. One that is always overtaken takes the claim in the end.
#[cold]
#[inline(never)]
fn read_patiently<T>(record: &[AtomicU32], mut copy: impl FnMut() -> Option<T>) -> Result<T, Gone> {
    for attempt in 1..PATIENCE {
        spin_wait(attempt);
        if let Some(copied) = try_read(record, &mut copy)? {
            return Ok(copied);
        }
    }
    let mut claim = claim(record)?;
    claim.unchanged();
    copy().ok_or(Gone)
}
