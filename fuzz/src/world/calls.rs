//! The store's calls, each against what is known of the rows.

use super::{KEYS, May, ROOM_TO_REMOVE, Training, World, key};
use dimslab::{Pooling, StoreError, TableId};

impl World<'_> {
    pub fn apply(&self, thread: usize, pooled: bool) {
        let table = self.table();
        let keys = self.keys(table);
        let (gradient, dim) = (f32::from(self.bytes.next() % 16) + 1.0, self.dim(table));
        if self.trains.replace(true) {
            return;
        }
        // Multiples of 1/8, so that sums are exact; the position sets equal keys' gradients apart.
        let offsets = [0, keys.len() / 3, keys.len()];
        let bag = |position: usize| if pooled { usize::from(position >= offsets[1]) } else { position };
        let value = |bag: usize| (gradient + (bag % 3) as f32) / 8.0;
        let mut sums: Vec<(usize, f32, bool)> = Vec::new();
        for (position, &number) in keys.iter().enumerate() {
            match sums.iter_mut().find(|sum| sum.0 == number) {
                Some(sum) => sum.1 += value(bag(position)),
                None => sums.push((number, value(bag(position)), false)),
            }
        }
        let bags = 0..if pooled { 2 } else { keys.len() };
        let grads: Vec<f32> = bags.flat_map(|bag| (0..dim).map(move |d| value(bag) * (1 + d % 4) as f32)).collect();
        let before: Vec<_> = sums.iter().map(|sum| (self.row(table, sum.0).live, self.went(table, sum.0))).collect();
        let unique = sums.len() as u64;
        *self.training.borrow_mut() = Some(Training { table, sums });
        self.may.set(May { grow: !self.deterministic, ..May::default() });
        let asked: Vec<u64> = keys.iter().copied().map(key).collect();
        let id = TableId::new(table);
        let applied = self.act(thread, || {
            if pooled {
                self.store.apply_pooled_gradients(id, &asked, &offsets, Pooling::Sum, &grads)
            } else {
                self.store.apply_gradients(id, &asked, &grads)
            }
        });
        self.take_stock();
        self.trains.set(false);
        let sums = self.training.take().map(|training| training.sums).unwrap_or_default();
        for (sum, (live, went)) in sums.iter().zip(before) {
            assert!(sum.2 || live == 0 || went != self.went(table, sum.0), "key {} was not trained", key(sum.0));
        }
        match applied {
            Ok(applied) => {
                let trained = sums.iter().filter(|sum| sum.2).count() as u64;
                assert_eq!((applied.unique, applied.updated, applied.missed), (unique, trained, unique - trained));
            }
            Err(StoreError::BudgetExhausted { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// The sum of a few rows, exact as long as nobody came between.
    pub fn gather_pooled(&self, thread: usize) {
        let table = self.table();
        let (keys, dim, interruptions) = (self.keys(table), self.dim(table), self.interruptions.get());
        let mut expected = vec![0f32; dim];
        for &number in &keys {
            let row = self.row(table, number);
            expected.iter_mut().zip(row.values).for_each(|(sum, value)| *sum += value);
        }
        let mut out = vec![f32::NAN; dim];
        let asked: Vec<u64> = keys.iter().copied().map(key).collect();
        let offsets = [0, keys.len()];
        let id = TableId::new(table);
        self.simulated[thread]
            .run(|| self.store.gather_pooled(id, &asked, &offsets, Pooling::Sum, &mut out))
            .expect("lengths are right");
        assert!(out == expected || interruptions != self.interruptions.get(), "{out:?} is not {expected:?}");
    }

    pub fn gather(&self, thread: usize) {
        let table = self.table();
        let (keys, dim) = (self.keys(table), self.dim(table));
        let since = self.history.borrow().len();
        let mut out = vec![f32::NAN; keys.len() * dim];
        let asked: Vec<u64> = keys.iter().copied().map(key).collect();
        let gathered = self.simulated[thread].run(|| self.store.gather(TableId::new(table), &asked, &mut out));
        gathered.expect("lengths are right");
        for (&number, values) in keys.iter().zip(out.chunks(dim)) {
            assert!(self.was(table, number, since, |row| row.values[..dim] == *values), "key {}", key(number));
        }
    }

    /// Removes one row, or a run of them.
    pub fn remove(&self, thread: usize, run: bool) {
        let table = self.table();
        let mut keys = self.keys(table);
        keys.truncate(if run { usize::MAX } else { 1 });
        self.remove_keys(thread, table, &keys);
    }

    pub(super) fn remove_keys(&self, thread: usize, table: usize, keys: &[usize]) {
        if !self.may_take(ROOM_TO_REMOVE) {
            return;
        }
        let known = |number: &usize| (self.row(table, *number).live != 0, self.went(table, *number));
        let before: Vec<_> = keys.iter().map(known).collect();
        let bits = keys.iter().fold(0, |bits, &number| bits | 1 << number);
        let interruptions = self.interruptions.get();
        self.may.set(May { take: (table, bits), ..May::default() });
        let id = TableId::new(table);
        let there: Vec<bool> = self.act(thread, || {
            // Somebody may have frozen a segment meanwhile, or claimed a row.
            let removed = keys.iter().map(|&number| {
                let alone = interruptions == self.interruptions.get();
                let may = alone || self.may_take(ROOM_TO_REMOVE) && !self.is_claimed(table, number);
                may.then(|| self.store.remove(id, key(number)).expect("the table is there"))
            });
            removed.map(|removed| removed.unwrap_or(false)).collect()
        });
        self.take_stock();
        let alone = interruptions == self.interruptions.get();
        for ((&number, &there), (live, went)) in keys.iter().zip(&there).zip(before) {
            let gone = went != self.went(table, number);
            assert!(!there || gone, "key {} was removed and is still there", key(number));
            // A key may be asked for twice.
            assert!(!alone || gone == live, "key {}: there {live}, removed {there}", key(number));
        }
    }

    pub fn step(&self, thread: usize) {
        if self.deterministic && (self.in_round.get() || self.frozen.get()) || self.round_waits() {
            return;
        }
        self.may.set(May { grow: self.deterministic, ..May::default() });
        let before = (self.interruptions.get(), self.rounds.get());
        self.before_cut.take();
        match self.act(thread, || self.store.step()) {
            Ok(report) => {
                self.take_stock();
                if let Some(round) = report.round {
                    assert!(self.rounds.get() > before.1);
                    self.check_cut(before.0, &round);
                }
            }
            Err(StoreError::BudgetExhausted { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// A call that is wrong is a typed error and changes nothing.
    pub fn wrong_call(&self, thread: usize) {
        let (table, shape) = (TableId::new(usize::from(self.bytes.next()) % 4), self.bytes.next());
        let keys = vec![key(usize::from(shape) % KEYS); usize::from(shape % 4)];
        let mut out = vec![7.0; usize::from(shape / 4)];
        let known = table.index() < self.table_count;
        let right = known && out.len() == keys.len() * self.dim(table.index());
        if !right {
            self.simulated[thread].run(|| {
                assert!(self.store.gather(table, &keys, &mut out).is_err() && out.iter().all(|&value| value == 7.0));
                assert!(self.store.apply_gradients(table, &keys, &out).is_err());
            });
        } else if !out.is_empty() {
            out[usize::from(shape) % keys.len()] = f32::NAN;
            assert!(self.store.apply_gradients(table, &keys, &out).is_err());
        }
    }
}
