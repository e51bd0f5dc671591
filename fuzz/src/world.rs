//! A store, what is known of every row, and the simulated threads that use it.
//!
//! After every operation, and wherever a thread is interrupted, all rows are compared with what is known: a row's values
//! change only by what the one operation that ran meanwhile may do.

use crate::{Bytes, Schedule};
use dimslab::fuzzing::{BegunCut, CHUNKS_MAX, HeldRow, Located, PinnedThread, Place, RowView, Seam, Simulated};
use dimslab::{
    ConfigError, Decay, FiitedConfig, Optimizer, Policy, Pooling, PruneReport, Rows, Store, StoreConfig, StoreError,
    TableConfig, TableId,
};
use std::cell::{Cell, RefCell};

pub const THREADS: usize = 4;
/// Keys of a table: small numbers, and a few at the other end of the range.
pub const KEYS: usize = 64;
const SMALL_KEYS: usize = 60;
const TABLES: usize = 2;
const DIM_MAX: usize = 32;
/// Dimension and chunk.
const SHAPES: [(usize, usize); 8] = [(1, 4), (4, 4), (5, 4), (12, 4), (16, 8), (16, 16), (20, 4), (32, 8)];
/// Room that is enough for a removal that meets a frozen segment to replace it, and for a round that meets several.
/// Without room they would wait for who froze it, and that is who stands still here.
const ROOM_TO_REMOVE: u64 = 2 << 10;
const ROOM_FOR_ROUND: u64 = 8 << 10;

pub fn key(number: usize) -> u64 {
    if number < SMALL_KEYS { number as u64 } else { u64::MAX - number as u64 }
}

pub fn number(key: u64) -> usize {
    if key < SMALL_KEYS as u64 { key as usize } else { (u64::MAX - key) as usize }
}

/// A row as it was when it was last looked at.
#[derive(Clone, Copy, PartialEq)]
pub struct Known {
    /// A bit for each live chunk; 0 if there is no row.
    pub live: u32,
    pub values: [f32; DIM_MAX],
}

const NO_ROW: Known = Known { live: 0, values: [0.0; DIM_MAX] };

struct Table {
    dim: usize,
    chunk: usize,
    rows: [Known; KEYS],
    /// How often each row went.
    went: [u32; KEYS],
}

/// What the operation that runs may do to rows.
#[derive(Clone, Copy, Default)]
struct May {
    grow: bool,
    /// Take chunks and rows.
    prune: bool,
    /// Take chunks, or all, of these rows: a table, and a bit for each key.
    take: (usize, u64),
}

impl May {
    fn take(table: usize, number: usize) -> May {
        May { take: (table, 1 << number), ..May::default() }
    }

    /// Whether chunks of a row may go.
    fn shrink(self, table: usize, number: usize) -> bool {
        self.prune || self.take.0 == table && self.take.1 >> number & 1 == 1
    }
}

/// The gradients of the call that runs: by key, and whether the row was seen to be trained.
struct Training {
    table: usize,
    sums: Vec<(usize, f32, bool)>,
}

/// A pin with rows that were found under it.
struct Pin {
    pinned: PinnedThread,
    rows: Vec<(Located, usize, usize, u32, u32)>,
}

/// A listing, and what it may give.
struct Listing<'s> {
    rows: Rows<'s>,
    table: usize,
    /// Where the history of its time begins.
    since: usize,
    rounds: u32,
    stay: u64,
    seen: u64,
}

/// A row before a cut.
#[derive(Clone, Copy)]
pub struct RowBefore {
    table: usize,
    number: usize,
    live: u32,
    /// The ordinal of the chunk in its head record.
    head: u32,
    utilities: [f32; CHUNKS_MAX],
}

/// What a round begins to cut from.
pub struct BeforeCut {
    cut: BegunCut,
    /// In the cut's order.
    rows: Vec<RowBefore>,
}

pub struct World<'s> {
    pub store: &'s Store,
    pub seam: Seam<'s>,
    pub bytes: &'s Bytes<'s>,
    pub schedule: Schedule<THREADS>,
    pub table_count: usize,
    deterministic: bool,
    simulated: [Simulated; THREADS],
    tables: RefCell<[Table; TABLES]>,
    may: Cell<May>,
    training: RefCell<Option<Training>>,
    /// A thread that trains keeps the scratch memory that is this operating-system thread's: there is one at a time.
    trains: Cell<bool>,
    /// The world itself is looking: nobody is interrupted.
    looking: Cell<bool>,
    /// Rows may have changed since the world looked.
    changed: Cell<bool>,
    in_round: Cell<bool>,
    /// Somebody stands still who has frozen a segment.
    frozen: Cell<bool>,
    /// Interruptions so far.
    interruptions: Cell<u32>,
    /// Rounds so far, and those that took something.
    rounds: Cell<u32>,
    cuts: Cell<u32>,
    pub before_cut: RefCell<Option<BeforeCut>>,
    /// Keys that may wait for the end of the step.
    pending: Cell<[u64; TABLES]>,
    pins: RefCell<[Option<Pin>; THREADS]>,
    held: RefCell<[Option<(usize, usize, HeldRow<'s>)>; THREADS]>,
    listings: RefCell<[Option<Listing<'s>>; THREADS]>,
    /// What rows were before they changed: table, key's number, row.
    history: RefCell<Vec<(usize, usize, Known)>>,
    operation: fn(&World<'s>, usize, u8),
}

/// Makes a store from the first bytes of a case. `tight`: a budget of a few superblocks.
pub fn store(bytes: &Bytes<'_>, tight: bool) -> Option<(Store, Vec<(usize, usize)>, bool)> {
    let (modes, shapes, slack) = (bytes.next(), bytes.next(), bytes.next());
    let count = 1 + usize::from(modes & 1);
    let deterministic = modes & 2 != 0;
    let shapes: Vec<_> = (0..count).map(|table| SHAPES[usize::from(shapes >> (4 * table)) % SHAPES.len()]).collect();
    let tables = || {
        let table = |(position, &(dim, chunk)): (usize, &(usize, usize))| {
            TableConfig::new(["a", "b"][position], dim).chunk(chunk).optimizer(Optimizer::Sgd { lr: 1.0 })
        };
        shapes.iter().enumerate().map(table).collect::<Vec<_>>()
    };
    let fiited = FiitedConfig {
        decay: if modes & 4 != 0 { Decay::PerStep(0.75) } else { Decay::PerCapacity(5.0) },
        period_steps: u64::from(modes >> 3 & 3) * 2 + 1,
        warmup_steps: 1,
        headroom: [0.01, 0.05, 0.1, 0.25][usize::from(modes >> 5 & 3)],
        sketch: 0.0001,
        ..FiitedConfig::default()
    };
    let policy = if modes & 128 != 0 && !tight { Policy::None } else { Policy::Fiited(fiited) };
    let config = |budget| StoreConfig::new(budget).policy(policy).deterministic(deterministic);
    let Err(ConfigError::BudgetTooSmall { needed, .. }) = Store::without_pruner(config(1), tables()) else {
        panic!("one byte will do")
    };
    let room = u64::from(slack) * if tight { 64 } else { 256 };
    let store = Store::without_pruner(config(needed + 512 + room), tables()).ok()?;
    Some((store, shapes, deterministic))
}

impl<'s> World<'s> {
    pub fn new(
        store: &'s Store,
        shapes: &[(usize, usize)],
        deterministic: bool,
        bytes: &'s Bytes<'s>,
        operations: u32,
        operation: fn(&World<'s>, usize, u8),
    ) -> World<'s> {
        let table = |position: usize| {
            let (dim, chunk) = shapes.get(position).copied().unwrap_or((1, 1));
            Table { dim, chunk: chunk.min(dim), rows: [NO_ROW; KEYS], went: [0; KEYS] }
        };
        World {
            store,
            seam: store.seam(),
            bytes,
            schedule: Schedule::new(operations),
            table_count: shapes.len(),
            deterministic,
            simulated: Default::default(),
            tables: RefCell::new(std::array::from_fn(table)),
            may: Cell::default(),
            training: RefCell::default(),
            trains: Cell::new(false),
            looking: Cell::new(false),
            changed: Cell::new(false),
            in_round: Cell::new(false),
            frozen: Cell::new(false),
            interruptions: Cell::new(0),
            rounds: Cell::new(0),
            cuts: Cell::new(0),
            before_cut: RefCell::default(),
            pending: Cell::default(),
            pins: RefCell::default(),
            held: RefCell::default(),
            listings: RefCell::default(),
            history: RefCell::default(),
            operation,
        }
    }

    /// Where a simulated thread may be interrupted.
    pub fn point(&self, place: Place) {
        if self.looking.get() {
            return;
        }
        match place {
            Place::RoundBegins => {
                self.in_round.set(true);
                self.rounds.set(self.rounds.get() + 1);
            }
            Place::CutBegins => {
                self.may.set(May { prune: true, ..self.may.get() });
                self.cuts.set(self.cuts.get() + 1);
                let before = self.look(|| self.before_cut());
                *self.before_cut.borrow_mut() = Some(before);
            }
            Place::Open | Place::Frozen => {}
        }
        // What is due may run in the middle of pinning, where no real thread could be stopped for others to pin.
        let may = Simulated::can_switch;
        let (mut first, changes) = (true, self.changed.get());
        self.schedule.point(may, || {
            if std::mem::take(&mut first) {
                if self.changed.get() {
                    self.take_stock();
                }
                self.interruptions.set(self.interruptions.get() + 1);
            }
            let frozen = self.frozen.get();
            self.frozen.set(frozen || place == Place::Frozen);
            let (may, training, cut) = (self.may.take(), self.training.take(), self.before_cut.take());
            self.operation();
            self.may.set(may);
            *self.training.borrow_mut() = training;
            *self.before_cut.borrow_mut() = cut;
            self.changed.set(changes);
            self.frozen.set(frozen);
        });
    }

    /// Something that may change rows, as one thread.
    fn act<T>(&self, thread: usize, with: impl FnOnce() -> T) -> T {
        self.changed.set(true);
        self.simulated[thread].run(with)
    }

    fn look<T>(&self, with: impl FnOnce() -> T) -> T {
        let before = self.looking.replace(true);
        let result = with();
        self.looking.set(before);
        result
    }

    /// One operation of some thread that is free.
    pub fn operation(&self) {
        if self.bytes.is_empty() || !self.schedule.take_operation() {
            return;
        }
        let choice = self.bytes.next();
        let Some(running) = self.schedule.begin(usize::from(choice >> 6)) else { return };
        self.may.set(May::default());
        let round = self.in_round.get();
        (self.operation)(self, running.thread, choice & 63);
        self.in_round.set(round);
        if self.changed.get() {
            self.take_stock();
        }
        self.check();
    }

    /// Runs all operations of the case, then perhaps removes everything.
    pub fn run(&self, drain: bool) {
        dimslab::fuzzing::interruptible(&|place| self.point(place), || {
            while !self.bytes.is_empty() && self.schedule.goes_on() {
                self.operation();
            }
            self.schedule.disarm();
            self.release_all();
            self.validate();
            if drain {
                self.drain();
            }
        });
    }

    /// Looks at all rows, and that only happened what may.
    fn take_stock(&self) {
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

    fn look_for_missing(&self, table: usize, seen: u64, claimed: usize) {
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
            self.remember(table, number, known.rows[number]);
            known.rows[number] = NO_ROW;
            known.went[number] += 1;
        }
    }

    fn remember(&self, table: usize, number: usize, row: Known) {
        self.history.borrow_mut().push((table, number, row));
    }

    /// Compares a row with what is known of it, and knows it.
    fn compare(&self, table: usize, number: usize, row: &RowView<'_>) {
        let may = self.may.get();
        let known = &mut self.tables.borrow_mut()[table];
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
    fn check(&self) {
        let figures = self.seam.figures();
        assert!(figures.held <= figures.peak && figures.peak <= figures.limit);
        if self.schedule.quiet() {
            let parts = figures.fixed + figures.directories + figures.committed + figures.awaiting;
            assert_eq!(parts, figures.held);
        }
        for pin in self.pins.borrow().iter().flatten() {
            assert!(pin.rows.iter().all(|(row, ..)| self.seam.in_place(row)), "a record went under a pin");
            let dead = |row| self.look(|| self.seam.dead_if_gone(row, &pin.pinned));
            assert!(!self.schedule.quiet() || pin.rows.iter().all(|(row, ..)| dead(row)), "a row is live where it was");
        }
    }

    pub fn table(&self) -> usize {
        self.bytes.below(self.table_count)
    }

    pub fn row(&self, table: usize, number: usize) -> Known {
        self.tables.borrow()[table].rows[number]
    }

    fn dim(&self, table: usize) -> usize {
        self.tables.borrow()[table].dim
    }

    fn went(&self, table: usize, number: usize) -> u32 {
        self.tables.borrow()[table].went[number]
    }

    /// Whether words may be taken out of directories without waiting for who stands still.
    fn may_take(&self, room: u64) -> bool {
        let figures = self.seam.figures();
        !self.frozen.get() || figures.limit - figures.held >= room
    }

    /// Whether somebody may have rows claimed.
    fn claims(&self) -> bool {
        !self.schedule.quiet() || self.held.borrow().iter().any(Option::is_some)
    }

    fn is_claimed(&self, table: usize, number: usize) -> bool {
        self.claims() && self.look(|| self.seam.is_claimed(table, key(number)))
    }

    fn any_claimed(&self, table: usize) -> bool {
        self.claims() && self.look(|| self.seam.rows(table, 0, |_| ())) > 0
    }

    /// A few keys, or a run of them, that nobody has claimed.
    fn keys(&self, table: usize) -> Vec<usize> {
        let (shape, first) = (usize::from(self.bytes.next()), self.bytes.below(KEYS));
        let step = [1, 1, 3, 0][shape / 64];
        let keys = (0..1 + shape % 16).map(|i| (first + i * step) % KEYS);
        keys.filter(|&number| !self.is_claimed(table, number)).collect()
    }

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
        if self.deterministic {
            let mut pending = self.pending.get();
            keys.iter().for_each(|&number| pending[table] |= 1 << number);
            self.pending.set(pending);
        }
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

    /// Whether the row is like that, or was at some time since.
    fn was(&self, table: usize, number: usize, since: usize, like: impl Fn(&Known) -> bool) -> bool {
        let history = self.history.borrow();
        let mut before = history[since..].iter().filter(|entry| (entry.0, entry.1) == (table, number));
        like(&self.row(table, number)) || before.any(|entry| like(&entry.2))
    }

    /// Removes one row, or a run of them.
    pub fn remove(&self, thread: usize, run: bool) {
        let table = self.table();
        let mut keys = self.keys(table);
        keys.truncate(if run { usize::MAX } else { 1 });
        self.remove_keys(thread, table, &keys);
    }

    fn remove_keys(&self, thread: usize, table: usize, keys: &[usize]) {
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
        let pending = self.pending.get();
        let waits = |(table, keys): (usize, u64)| {
            (0..KEYS).any(|number| keys >> number & 1 == 1 && self.is_claimed(table, number))
        };
        if self.deterministic
            && (self.in_round.get() || self.frozen.get() || self.claims() && (0..).zip(pending).any(waits))
        {
            return;
        }
        self.pending.set([0; TABLES]);
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

    pub fn prune(&self, thread: usize) {
        if self.in_round.get() || !self.may_take(ROOM_FOR_ROUND) {
            return;
        }
        let interruptions = self.interruptions.get();
        self.before_cut.take();
        let report = self.act(thread, || self.store.prune()).expect("a round does not fail");
        self.take_stock();
        self.check_cut(interruptions, &report);
    }

    /// Prunes until so many bytes are held, in 32nds of what is held now beyond the least.
    pub fn prune_to(&self, thread: usize) {
        let part = u64::from(self.bytes.next() % 33);
        if self.in_round.get() || !self.may_take(ROOM_FOR_ROUND) {
            return;
        }
        self.in_round.set(true);
        let (figures, interruptions) = (self.seam.figures(), self.interruptions.get());
        let least = self.seam.least_held();
        let asked = least + figures.held.saturating_sub(least) * part / 32;
        let pruned = self.act(thread, || self.store.prune_to(asked));
        self.rounds.set(self.rounds.get() + 1);
        self.before_cut.take();
        self.take_stock();
        match pruned {
            Ok(_) => {
                let alone = self.schedule.quiet() && interruptions == self.interruptions.get();
                let free = self.pins.borrow().iter().all(Option::is_none) && !self.claims();
                let empty =
                    (0..self.table_count).all(|table| self.tables.borrow()[table].rows.iter().all(|row| row.live == 0));
                assert!(
                    !alone || !free || empty || self.seam.figures().held <= asked,
                    "more than {asked} bytes are held"
                );
            }
            Err(StoreError::NoPolicy { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn before_cut(&self) -> BeforeCut {
        let round = self.cuts.get();
        let from = round.wrapping_mul(0x9E37_79B1);
        let mut rows = Vec::new();
        for position in 0..self.table_count {
            let table = (round as usize * 7 + position) % self.table_count;
            self.seam.rows(table, from, |row| {
                let RowView { key, live, head, utilities, .. } = row;
                rows.push(RowBefore { table, number: number(key), live, head, utilities });
            });
        }
        BeforeCut { cut: self.seam.begun_cut(), rows }
    }

    /// A round that nobody came between took exactly what lies below its cut, and no more than its quota, up to the chunks
    /// of one row, of what lies just below.
    fn check_cut(&self, interruptions: u32, report: &PruneReport) {
        let Some(BeforeCut { cut, rows }) = self.before_cut.take() else {
            assert_eq!((report.threshold, report.shrunk, report.evicted), (0.0, 0, 0));
            return;
        };
        if interruptions != self.interruptions.get() || self.held.borrow().iter().any(Option::is_some) {
            return;
        }
        assert_eq!(report.threshold, cut.threshold);
        if self.schedule.quiet() {
            // Otherwise rows may be claimed, which are measured but not among ours.
            self.check_begun(cut, &rows);
        }
        let mut left = [[None; KEYS]; TABLES];
        let (mut quota, mut shrunk, mut evicted) = (cut.quota, 0, 0);
        for &RowBefore { table, number, live, head, utilities } in &rows {
            let live = left[table][number].get_or_insert(live);
            let (scale, head_bytes, tail_bytes) = self.seam.scale_and_bytes(table);
            if scale == 0.0 || *live == 0 {
                continue;
            }
            let surely = cut.surely * scale;
            let limit = if quota > 0 { cut.threshold * scale } else { surely };
            let mut taken = 0u32;
            for ordinal in (0..32).filter(|&ordinal| *live >> ordinal & 1 == 1) {
                let utility = utilities[ordinal as usize];
                taken |= u32::from(utility < limit) << ordinal;
                if (surely..limit).contains(&utility) {
                    quota = quota.saturating_sub(if ordinal == head { head_bytes } else { tail_bytes });
                }
            }
            *live &= !taken;
            let gone = u64::from(*live == 0 && taken != 0);
            (shrunk, evicted) = (shrunk + u64::from(taken.count_ones()) - gone, evicted + gone);
        }
        assert_eq!((report.shrunk, report.evicted), (shrunk, evicted), "{cut:?}");
        for (table, left) in left.iter().enumerate() {
            for (number, live) in left.iter().enumerate() {
                let expected = live.unwrap_or_else(|| self.row(table, number).live);
                assert_eq!(self.row(table, number).live, expected, "key {} of table {table}", key(number));
            }
        }
    }

    /// What a round begins to take makes as many bytes as it wants, four steps of importance to a power of two.
    fn check_begun(&self, cut: BegunCut, rows: &[RowBefore]) {
        let bin = |importance: f32| importance.to_bits() >> 21;
        let mut counted = [0u64; TABLES];
        let (mut below, mut within) = (0, 0);
        for &RowBefore { table, number, live, head, utilities } in rows {
            // A round comes to the rows of the segment it begins in twice.
            if counted[table] >> number & 1 == 1 {
                continue;
            }
            counted[table] |= 1 << number;
            let (scale, head_bytes, tail_bytes) = self.seam.scale_and_bytes(table);
            let per_unit = scale.max(f32::MIN_POSITIVE).recip();
            for ordinal in (0..32).filter(|ordinal| live >> ordinal & 1 == 1) {
                let bytes = if ordinal == head { head_bytes } else { tail_bytes };
                let importance = utilities[ordinal as usize] * per_unit;
                below += if bin(importance) < bin(cut.surely) { bytes } else { 0 };
                within += if bin(importance) == bin(cut.surely) { bytes } else { 0 };
            }
        }
        if cut.quota == 0 {
            assert!(cut.surely == f32::INFINITY && below + within < cut.wanted, "{below} bytes, and {cut:?}");
        } else {
            assert!(below + cut.quota == cut.wanted && cut.quota <= within, "{below} and {within} bytes, and {cut:?}");
        }
    }

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
            Pin { pinned, rows }
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

    fn let_go(&self, thread: usize, held: (usize, usize, HeldRow<'s>), how: u8) {
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
    fn stays(&self, listing: &Listing<'_>, number: usize) -> bool {
        let gone = |row: &Known| row.live == 0;
        listing.stay >> number & 1 == 1 && !self.was(listing.table, number, listing.since, gone)
    }

    fn check_listing(&self, listing: &Listing<'_>) {
        // A round may move rows, and what is moved may be missed.
        let unmoved = listing.rounds == self.rounds.get();
        for number in (0..KEYS).filter(|&number| unmoved && self.stays(listing, number)) {
            assert!(listing.seen >> number & 1 == 1, "key {} was not listed", key(number));
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

    /// Everything, while nobody stands in the middle of anything and no row is claimed.
    pub fn validate(&self) {
        if self.schedule.quiet() && self.held.borrow().iter().all(Option::is_none) {
            self.look(|| self.store.validate()).expect("the invariants hold");
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

    /// Removes every row and lets go of every pin: all superblocks go back, and nothing waits.
    pub fn drain(&self) {
        for table in 0..self.table_count {
            let there: Vec<usize> = (0..KEYS).filter(|&number| self.row(table, number).live != 0).collect();
            self.remove_keys(0, table, &there);
        }
        self.pins.take();
        self.in_round.set(false);
        self.prune(0);
        let figures = self.seam.figures();
        assert_eq!((figures.committed, figures.retired, figures.awaiting), (0, 0, 0));
        assert_eq!(figures.held, figures.fixed + figures.directories);
    }
}

impl Known {
    /// Subtracts the gradient `sum`, times 1 to 4 by dimension, from what is live.
    fn train(&mut self, dim: usize, chunk: usize, sum: f32) {
        self.add(dim, chunk, |dimension| -sum * (1 + dimension % 4) as f32);
    }

    fn add(&mut self, dim: usize, chunk: usize, delta: impl Fn(usize) -> f32) {
        for dimension in (0..dim).filter(|dimension| self.live >> (dimension / chunk) & 1 == 1) {
            self.values[dimension] += delta(dimension);
        }
    }
}
