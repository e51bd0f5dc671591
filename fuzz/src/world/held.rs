//! What threads hold open: pins with rows that were found under them, claims, listings.

use super::{DIM_MAX, KEYS, Known, May, ROOM_TO_REMOVE, THREADS, World, key, number};
use dimslab::fuzzing::{HeldRow, Located, PinnedThread};
use dimslab::{Rows, TableId};

/// A pin with rows that were found under it.
pub(super) struct Pin {
    pub(super) _pinned: PinnedThread,
    pub(super) rows: Vec<(Located, usize, usize, u32, u32)>,
}

/// A listing, and what it may give.
pub(super) struct Listing<'s> {
    pub(super) rows: Rows<'s>,
    pub(super) table: usize,
    /// Where the history of its time begins.
    pub(super) since: usize,
    pub(super) rounds: u32,
    pub(super) stay: u64,
    pub(super) seen: u64,
}

impl<'s> World<'s> {
    /// Pins a thread and locates rows, or lets go.
    pub fn toggle_pin(&self, thread: usize) {
        let table = self.table();
        let numbers = self.keys(table);
        let dropped = self.pins.borrow_mut()[thread].take();
        if dropped.is_some() {
            return;
        }
        let pin = self.look(|| {
            let pinned = self.simulated[thread].run(|| self.seam.pin());
            let rounds = self.rounds.get();
            let mut rows = Vec::new();
            for number in numbers {
                let located = self.seam.locate(table, key(number), &pinned);
                assert_eq!(located.is_some(), self.row(table, number).live != 0, "key {}", key(number));
                rows.extend(located.map(|located| (located, table, number, self.went(table, number), rounds)));
            }
            Pin { _pinned: pinned, rows }
        });
        self.pins.borrow_mut()[thread] = Some(pin);
    }

    /// Reads through what a pinned thread found long ago.
    pub fn read_located(&self, thread: usize) {
        self.look(|| {
            let pins = self.pins.borrow();
            let Some(pin) = &pins[thread] else { return };
            for (located, table, number, went, rounds) in &pin.rows {
                let dim = self.dim(*table);
                if self.seam.located_is_claimed(located) {
                    continue;
                }
                let mut out = [0.0; DIM_MAX];
                match self.seam.read(located, &mut out[..dim]) {
                    Some(live) => assert!(Known { live, values: out } == self.row(*table, *number)),
                    None => assert!(*went != self.went(*table, *number) || *rounds != self.rounds.get()),
                }
            }
        });
    }

    /// Claims a row and keeps it, or lets it go in one way or another. Only while nobody stands in the middle of
    /// something: who does may be about to wait for this very row.
    pub fn toggle_claim(&self, thread: usize) {
        let (table, number, how) = (self.table(), self.bytes.below(KEYS), self.bytes.next());
        let held = self.held.borrow_mut()[thread].take();
        match held {
            Some(held) => self.let_go(thread, held, how),
            None if self.schedule.quiet() => {
                let claimed = self.look(|| {
                    if self.seam.is_claimed(table, key(number)) {
                        return None;
                    }
                    let claimed = self.simulated[thread].run(|| self.seam.claim(table, key(number)));
                    assert_eq!(claimed.is_some(), self.row(table, number).live != 0);
                    claimed
                });
                self.held.borrow_mut()[thread] = claimed.map(|claimed| (table, number, claimed));
            }
            None => {}
        }
    }

    pub(super) fn let_go(&self, thread: usize, held: (usize, usize, HeldRow<'s>), how: u8) {
        let (table, number, row) = held;
        let how = if self.may_take(ROOM_TO_REMOVE) { how } else { 0 };
        self.act(thread, || match how % 4 {
            0 => drop(row),
            1 => {
                let delta = f32::from(how / 4) / 8.0;
                row.add(delta);
                let tables = &mut self.tables.borrow_mut()[table];
                let (dim, chunk) = (tables.dim, tables.chunk);
                self.remember(table, number, tables.rows[number]);
                tables.rows[number].add(dim, chunk, |_| delta);
            }
            _ => {
                self.may.set(May::take(table, number));
                row.shrink(u32::from(how >> 2));
            }
        });
    }

    /// Goes on with a thread's listing, or opens one.
    pub fn list(&self, thread: usize) {
        let (table, count) = (self.table(), self.bytes.next() % 32);
        let taken = self.listings.borrow_mut()[thread].take();
        let mut listing = taken.unwrap_or_else(|| Listing {
            rows: self.store.iter(TableId::new(table)).expect("the table is there"),
            table,
            since: self.history.borrow().len(),
            rounds: self.rounds.get(),
            stay: (0..KEYS).filter(|&number| self.row(table, number).live != 0).fold(0, |bits, i| bits | 1 << i),
            seen: 0,
        });
        let (table, dim) = (listing.table, self.dim(listing.table));
        if self.any_claimed(table) {
            self.listings.borrow_mut()[thread] = Some(listing);
            return;
        }
        for _ in 0..=count {
            let Some(row) = self.simulated[thread].run(|| listing.rows.next()) else {
                return self.check_listing(&listing);
            };
            let number = number(row.key);
            let live = row.live.iter().fold(0, |bits, ordinal| bits | 1 << ordinal);
            let like = |known: &Known| known.live == live && known.values[..dim] == row.values;
            assert!(self.was(table, number, listing.since, like), "key {} never was like that", row.key);
            let stays = self.stays(&listing, number);
            assert!(!stays || listing.seen >> number & 1 == 0, "key {} is listed twice", row.key);
            listing.seen |= 1 << number;
        }
        self.listings.borrow_mut()[thread] = Some(listing);
    }

    /// The row was there from the beginning of the listing.
    pub(super) fn stays(&self, listing: &Listing<'_>, number: usize) -> bool {
        let gone = |row: &Known| row.live == 0;
        listing.stay >> number & 1 == 1 && !self.was(listing.table, number, listing.since, gone)
    }

    pub(super) fn check_listing(&self, listing: &Listing<'_>) {
        // A round may move rows, and what is moved may be missed.
        let unmoved = listing.rounds == self.rounds.get();
        for number in (0..KEYS).filter(|&number| unmoved && self.stays(listing, number)) {
            assert!(listing.seen >> number & 1 == 1, "key {} was not listed", key(number));
        }
    }

    /// Lets go of all claims.
    pub fn release_all(&self) {
        for thread in 0..THREADS {
            let held = self.held.borrow_mut()[thread].take();
            if let Some(held) = held {
                self.may.set(May::default());
                self.let_go(thread, held, 0);
            }
        }
        self.take_stock();
    }
}
