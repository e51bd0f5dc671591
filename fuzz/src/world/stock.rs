//! Comparing all rows with what is known of them.

use super::{DIM_MAX, KEYS, Known, NO_ROW, World, key, number};
use dimslab::fuzzing::RowView;

impl World<'_> {
    /// Looks at all rows, and that only happened what may.
    pub(super) fn take_stock(&self) {
        self.changed.set(false);
        self.look(|| {
            for table in 0..self.table_count {
                let mut seen = 0u64;
                let claimed = self.seam.rows(table, 0, |row| {
                    let number = number(row.key);
                    assert_eq!(seen >> number & 1, 0, "key {} has two rows", row.key);
                    seen |= 1 << number;
                    self.compare(table, number, &row);
                });
                self.look_for_missing(table, seen, claimed);
            }
        });
    }

    pub(super) fn look_for_missing(&self, table: usize, seen: u64, claimed: usize) {
        let may = self.may.get();
        let known = &mut self.tables.borrow_mut()[table];
        for number in 0..KEYS {
            if seen >> number & 1 == 1 || known.rows[number].live == 0 {
                continue;
            }
            if claimed > 0 && self.seam.is_claimed(table, key(number)) {
                continue;
            }
            assert!(may.shrink(table, number), "key {} of table {table} is lost", key(number));
            let haunts = known.heads[number].take().is_some_and(|head| self.seam.haunts(table, key(number), head));
            assert!(!haunts, "key {} of table {table} went and lives on", key(number));
            self.remember(table, number, known.rows[number]);
            known.rows[number] = NO_ROW;
            known.went[number] += 1;
        }
    }

    pub(super) fn remember(&self, table: usize, number: usize, row: Known) {
        self.history.borrow_mut().push((table, number, row));
    }

    /// Compares a row with what is known of it, and knows it.
    pub(super) fn compare(&self, table: usize, number: usize, row: &RowView<'_>) {
        let may = self.may.get();
        let known = &mut self.tables.borrow_mut()[table];
        let head = known.heads[number].replace(row.head);
        if let Some(head) = head.filter(|&head| head != row.head) {
            assert!(!self.seam.haunts(table, row.key, head), "key {} lives on where it was before", row.key);
        }
        let before = &known.rows[number];
        if row.live == before.live && row.values == &before.values[..known.dim] {
            return;
        }
        let mut now = Known { live: row.live, values: [0.0; DIM_MAX] };
        now.values[..known.dim].copy_from_slice(row.values);
        let before = *before;
        let mut expected = before;
        let mut training = self.training.borrow_mut();
        let mine = training.as_mut().filter(|training| training.table == table);
        let untrained = mine.and_then(|training| training.sums.iter_mut().find(|sum| sum.0 == number && !sum.2));
        let both = before.live & now.live;
        if let Some((_, sum, trained)) = untrained
            && both != 0
        {
            let first = both.trailing_zeros() as usize * known.chunk;
            if now.values[first] != before.values[first] {
                *trained = true;
                expected.train(known.dim, known.chunk, *sum);
            }
        }
        for (dimension, &value) in now.values[..known.dim].iter().enumerate() {
            let bit = 1 << (dimension / known.chunk);
            if both & bit != 0 {
                assert_eq!(value, expected.values[dimension], "key {}, dimension {dimension}", row.key);
            } else {
                assert_eq!(value, 0.0, "key {}, dimension {dimension} is new or has gone", row.key);
            }
        }
        assert!(may.grow || now.live & !before.live == 0, "key {} grew", row.key);
        assert!(may.shrink(table, number) || before.live & !now.live == 0, "key {} shrank", row.key);
        assert!(now.live >> known.dim.div_ceil(known.chunk) == 0 && now.live != 0);
        self.remember(table, number, before);
        known.rows[number] = now;
    }

    /// What holds between any two operations.
    pub(super) fn check(&self) {
        let figures = self.seam.figures();
        assert!(figures.held <= figures.peak && figures.peak <= figures.limit);
        if self.schedule.quiet() {
            let parts = figures.fixed + figures.directories + figures.committed + figures.awaiting;
            assert_eq!(parts, figures.held);
        }
        for pin in self.pins.borrow().iter().flatten() {
            assert!(pin.rows.iter().all(|(row, ..)| self.seam.in_place(row)), "a record went under a pin");
        }
    }

    /// Whether the row is like that, or was at some time since.
    pub(super) fn was(&self, table: usize, number: usize, since: usize, like: impl Fn(&Known) -> bool) -> bool {
        let history = self.history.borrow();
        let mut before = history[since..].iter().filter(|entry| (entry.0, entry.1) == (table, number));
        like(&self.row(table, number)) || before.any(|entry| like(&entry.2))
    }
}
