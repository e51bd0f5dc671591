//! The hard limit, in bytes, on everything the store allocates.
//!
//! Conservation: `held` is the sum of all successful reservations less all releases, and `held <= limit` at every
//! moment. Bytes are reserved *before* they are allocated and released *after* they were given back.

use crate::sync::{AtomicU64, Ordering};

/// Counts the bytes the store holds against its limit.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    /// The last part of the limit, kept for rebuilding directory segments, without which nothing could be removed.
    urgent: u64,
    held: AtomicU64,
    peak: AtomicU64,
    /// Held bytes that only wait for their last reader before they are released.
    awaiting: AtomicU64,
}

/// A reservation that would have crossed the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OverBudget {
    pub(crate) asked: u64,
    pub(crate) held: u64,
    pub(crate) limit: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Budget {
            limit,
            urgent: (limit / 64).min(256 << 10),
            held: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            awaiting: AtomicU64::new(0),
        }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    pub(crate) fn held(&self) -> u64 {
        // Relaxed: a figure; nothing is published through it.
        self.held.load(Ordering::Relaxed)
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Bytes an ordinary reservation may still take.
    pub(crate) fn room(&self) -> u64 {
        (self.limit - self.urgent).saturating_sub(self.held())
    }

    /// Reserves `bytes` for something that can be refused: chunks above all.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<(), OverBudget> {
        self.reserve_below(bytes, self.limit - self.urgent)
    }

    /// Reserves `bytes` for a directory rebuild, from the last part of the limit if need be.
    pub(crate) fn reserve_urgent(&self, bytes: u64) -> Result<(), OverBudget> {
        self.reserve_below(bytes, self.limit)
    }

    fn reserve_below(&self, bytes: u64, ceiling: u64) -> Result<(), OverBudget> {
        // The modification order of this one word is all that the invariant needs. Acquire on success: pairs with the
        // Release in `release`, so that whoever gets bytes back finds what had them: `give_back` makes a superblock
        // vacant first, and `acquire` must see it.
        let mut held = self.held.load(Ordering::Relaxed);
        loop {
            let after = match held.checked_add(bytes) {
                Some(after) if after <= ceiling => after,
                _ => return Err(OverBudget { asked: bytes, held, limit: self.limit }),
            };
            match self.held.compare_exchange_weak(held, after, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => {
                    self.peak.fetch_max(after, Ordering::Relaxed);
                    return Ok(());
                }
                Err(current) => held = current,
            }
        }
    }

    /// Notes that held bytes are retired and will be released.
    pub(crate) fn retire(&self, bytes: u64) {
        self.awaiting.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Releases bytes that were noted by [`retire`](Self::retire).
    pub(crate) fn release_retired(&self, bytes: u64) {
        self.release(bytes);
        self.awaiting.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Notes that retired bytes stay held for good.
    pub(crate) fn keep_retired(&self, bytes: u64) {
        self.awaiting.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes retired and not yet released.
    pub(crate) fn awaiting(&self) -> u64 {
        self.awaiting.load(Ordering::Relaxed)
    }

    pub(crate) fn release(&self, bytes: u64) {
        // Release: see `reserve_below`.
        let before = self.held.fetch_sub(bytes, Ordering::Release);
        debug_assert!(before >= bytes, "released {bytes} of {before} held bytes");
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn ordinary_reservations_leave_the_urgent_part() {
        let budget = Budget::new(6400);
        assert_eq!(budget.room(), 6300);
        budget.reserve(6300).unwrap();
        let refused = budget.reserve(1).unwrap_err();
        assert_eq!(refused, OverBudget { asked: 1, held: 6300, limit: 6400 });
        budget.reserve_urgent(100).unwrap();
        assert!(budget.reserve_urgent(1).is_err());
        budget.release(6400);
        assert_eq!((budget.held(), budget.peak()), (0, 6400));
        assert!(budget.reserve(u64::MAX).is_err());
    }
}
