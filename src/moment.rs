//! The moment that a snapshot is of, and the rows that change before it has come to them.
//!
//! A snapshot begins by changing one word: the *phase* that rows are in from then on. A row whose own phase, a bit of its
//! sequence word, is still the other one has not been saved. Whoever claims such a row to change it first *keeps* an image
//! of it here; the snapshot, which goes over all rows, takes the others itself. Either sets the row's bit under the same
//! claim, so each row is saved once, as it was at the beginning. When all rows are in the new phase, the snapshot is whole,
//! and until the next one begins no claim meets a row of the other phase.
//!
//! A thread may read the phase a little late, and change a row as if the snapshot had not begun: then the row is saved
//! as it is afterwards. A row that such a thread *makes* would stay in the old phase for good, if the snapshot had already
//! passed the row's place; so a snapshot waits for a grace period after its beginning before it goes over the rows.
//!
//! Images wait in a buffer of fixed size for the snapshot's reader. When it is full, whoever has to keep one waits,
//! without the row; if nobody reads for long, the snapshot is given up, and not the training.

use crate::failpoint::{Point, reach};
use crate::sequence::PHASE;
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering, pause};

/// Only rows that were changed since they were last saved are wanted.
const CHANGED_ONLY: u32 = 1;
/// Nobody reads images: none is kept.
const UNREAD: u32 = 2;
const _: () = assert!((CHANGED_ONLY | UNREAD) & PHASE == 0);

/// Pauses without a reader's visit after which a snapshot is given up: about a minute.
#[cfg(not(any(loom, shuttle, test)))]
const PATIENCE: u32 = 60_000;
#[cfg(all(test, not(any(loom, shuttle))))]
const PATIENCE: u32 = 2_000;
#[cfg(shuttle)]
const PATIENCE: u32 = 10_000;
#[cfg(loom)]
const PATIENCE: u32 = 2;

/// See the module documentation.
pub(crate) struct Moment {
    /// The phase, and what is wanted of rows that are in the other one.
    word: AtomicU32,
    kept: Mutex<Kept>,
    /// Most words of images.
    capacity: usize,
    stalls: AtomicU64,
}

/// Images, one behind the other.
#[derive(Default)]
struct Kept {
    words: Vec<u32>,
    /// How often they were taken.
    visits: u64,
}

/// What the phase word says to whoever has claimed a row of the other phase.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The row needs no image, or has one.
    Done,
    /// There is no room for one now.
    Full,
}

impl Moment {
    /// A buffer of so many bytes, half of it for what a reader has taken. Nothing is allocated before a snapshot begins.
    pub(crate) fn new(bytes: u64) -> Moment {
        Moment {
            word: AtomicU32::new(UNREAD),
            kept: Mutex::new(Kept::default()),
            capacity: (bytes / 8) as usize,
            stalls: AtomicU64::new(0),
        }
    }

    /// The phase that rows are in which are saved, changed or made from now on.
    ///
    /// Relaxed, and read after a row was claimed: what the row's last writer knew of the phase is known then.
    #[inline]
    pub(crate) fn phase(&self) -> u32 {
        self.word.load(Ordering::Relaxed) & PHASE
    }

    /// Begins a snapshot: of rows changed since they were last saved, or of all. From now on images are kept, until
    /// [`end`](Self::end).
    pub(crate) fn begin(&self, changed_only: bool) {
        self.kept.lock().words.reserve_exact(self.capacity);
        let phase = self.phase() ^ PHASE;
        // Relaxed: whoever must see this is told by other means: by a row's claim, by the lock that excludes rounds, by a
        // grace period.
        self.word.store(phase | if changed_only { CHANGED_ONLY } else { 0 }, Ordering::Relaxed);
    }

    /// No image is of use any more.
    pub(crate) fn give_up(&self) {
        self.word.fetch_or(UNREAD, Ordering::Relaxed);
    }

    /// Whether the snapshot was given up.
    pub(crate) fn is_given_up(&self) -> bool {
        self.word.load(Ordering::Relaxed) & UNREAD != 0
    }

    /// All rows are in the new phase.
    pub(crate) fn end(&self) {
        self.give_up();
        *self.kept.lock() = Kept::default();
    }

    /// Whether rows are wanted only if they changed since they were last saved.
    pub(crate) fn changed_only(&self) -> bool {
        self.word.load(Ordering::Relaxed) & CHANGED_ONLY != 0
    }

    /// Keeps the image of a claimed row of the other phase, `size` words that `image` writes, if it is wanted.
    pub(crate) fn keep(&self, changed: bool, size: usize, image: impl FnOnce(&mut Vec<u32>)) -> Keep {
        if self.is_given_up() || !changed && self.changed_only() {
            return Keep::Done;
        }
        let mut kept = self.kept.lock();
        if kept.words.len() + size > self.capacity {
            return Keep::Full;
        }
        image(&mut kept.words);
        drop(kept);
        reach(Point::ImageKept);
        Keep::Done
    }

    /// Waits until there may be room, without a claim.
    #[cold]
    pub(crate) fn wait_for_room(&self) {
        self.stalls.fetch_add(1, Ordering::Relaxed);
        let before = self.kept.lock().visits;
        for _ in 0..PATIENCE {
            if self.kept.lock().visits != before || self.is_given_up() {
                return;
            }
            pause();
        }
        self.give_up();
    }

    /// Puts the images kept so far in place of what is in `words`.
    pub(crate) fn take(&self, words: &mut Vec<u32>) {
        words.clear();
        words.reserve_exact(self.capacity);
        let mut kept = self.kept.lock();
        std::mem::swap(&mut kept.words, words);
        kept.visits += 1;
    }

    /// Words of images that were not taken yet.
    pub(crate) fn waiting(&self) -> usize {
        self.kept.lock().words.len()
    }

    /// Whether images are to be taken before anything else: otherwise there may soon be no room for more.
    pub(crate) fn is_pressing(&self) -> bool {
        self.waiting() > self.capacity / 4
    }

    /// How often somebody had to wait for room.
    pub(crate) fn stalls(&self) -> u64 {
        self.stalls.load(Ordering::Relaxed)
    }
}
