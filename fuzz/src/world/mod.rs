//! A store, what is known of every row, and the simulated threads that use it.
//!
//! After every operation, and wherever a thread is interrupted, all rows are compared with what is known: a row's values
//! change only by what the one operation that ran meanwhile may do.

mod calls;
mod held;
mod made;
mod rounds;
mod stock;

use crate::{Bytes, Schedule};
use dimslab::Store;
use dimslab::fuzzing::{Head, HeldRow, Place, Seam, Simulated};
use held::{Listing, Pin};
pub use made::{Made, make};
use rounds::BeforeCut;
use std::cell::{Cell, RefCell};

pub const THREADS: usize = 4;
/// Keys of a table: small numbers, and a few at the other end of the range.
pub const KEYS: usize = 64;
const SMALL_KEYS: usize = 60;
const TABLES: usize = 2;
const DIM_MAX: usize = 32;
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
    /// Where their head records were.
    heads: [Option<Head>; KEYS],
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

pub struct World<'s> {
    store: &'s Store,
    pub seam: Seam<'s>,
    pub bytes: &'s Bytes<'s>,
    pub schedule: Schedule<THREADS>,
    table_count: usize,
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
    before_cut: RefCell<Option<BeforeCut>>,
    pins: RefCell<[Option<Pin>; THREADS]>,
    held: RefCell<[Option<(usize, usize, HeldRow<'s>)>; THREADS]>,
    listings: RefCell<[Option<Listing<'s>>; THREADS]>,
    /// What rows were before they changed: table, key's number, row.
    history: RefCell<Vec<(usize, usize, Known)>>,
    operation: fn(&World<'s>, usize, u8),
}

impl<'s> World<'s> {
    pub fn new(
        made: &'s Made,
        bytes: &'s Bytes<'s>,
        operations: u32,
        operation: fn(&World<'s>, usize, u8),
    ) -> World<'s> {
        let Made { store, shapes, deterministic } = made;
        let table = |position: usize| {
            let (dim, chunk) = shapes.get(position).copied().unwrap_or((1, 1));
            Table { dim, chunk: chunk.min(dim), rows: [NO_ROW; KEYS], heads: [None; KEYS], went: [0; KEYS] }
        };
        World {
            store,
            seam: store.seam(),
            bytes,
            schedule: Schedule::new(operations),
            table_count: shapes.len(),
            deterministic: *deterministic,
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

    pub fn table(&self) -> usize {
        self.bytes.below(self.table_count)
    }

    pub(super) fn row(&self, table: usize, number: usize) -> Known {
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

    /// Whether a round would wait for somebody: in a deterministic store it does for every row that is claimed.
    fn round_waits(&self) -> bool {
        self.deterministic && (0..self.table_count).any(|table| self.any_claimed(table))
    }

    /// A few keys, or a run of them, that nobody has claimed.
    fn keys(&self, table: usize) -> Vec<usize> {
        let (shape, first) = (usize::from(self.bytes.next()), self.bytes.below(KEYS));
        let step = [1, 1, 3, 0][shape / 64];
        let keys = (0..1 + shape % 16).map(|i| (first + i * step) % KEYS);
        keys.filter(|&number| !self.is_claimed(table, number)).collect()
    }

    /// Everything, while nobody stands in the middle of anything and no row is claimed.
    pub fn validate(&self) {
        if self.schedule.quiet() && self.held.borrow().iter().all(Option::is_none) {
            self.look(|| self.store.validate()).expect("the invariants hold");
        }
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
