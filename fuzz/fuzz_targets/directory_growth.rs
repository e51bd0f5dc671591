//! The directory alone: simulated threads insert, remove, relocate, find and walk, interrupt each other in the middle of
//! splits and replacements, and keep replaced segments by their pins. Tags share prefixes or are equal.
#![no_main]

use dimslab::fuzzing::{Inserted, Pinned, Place, Tree, Verdict, interruptible};
use dimslab_fuzz::{Bytes, Schedule};
use libfuzzer_sys::fuzz_target;
use std::cell::{Cell, RefCell};

const THREADS: usize = 4;
const KEYS: usize = 128;
const OPERATIONS: u32 = 32;
/// Room that is enough for whoever meets a frozen segment to replace it.
const ROOM_TO_HELP: u64 = 16 << 10;

/// A row record, as far as the directory can tell.
#[derive(Clone, Copy)]
struct Record {
    key: usize,
    live: bool,
}

/// A thread's walk over the directory.
#[derive(Clone, Copy)]
struct Walk {
    at: u32,
    /// Keys that were there from the beginning.
    stay: u128,
    seen: u128,
    /// Those whose record was live then.
    live: u128,
    twice: u128,
}

/// A pin that is held, and the bytes of retired segments it has to keep.
struct Held {
    _pinned: Pinned,
    /// Bytes that were retired before it, which it need not keep.
    before: u64,
    most: u64,
}

struct World<'d> {
    tree: &'d Tree,
    bytes: &'d Bytes<'d>,
    schedule: Schedule<THREADS>,
    /// How keys become tags.
    scheme: u8,
    /// Record `i` is at `i - 1`.
    records: RefCell<Vec<Record>>,
    /// Each key's live record.
    live: RefCell<[u32; KEYS]>,
    /// How often each key went.
    went: RefCell<[u32; KEYS]>,
    /// Keys whose record a thread is moving.
    claimed: Cell<u128>,
    walks: Cell<[Option<Walk>; THREADS]>,
    pins: RefCell<[Option<Held>; THREADS]>,
}

impl World<'_> {
    fn tag(&self, key: usize) -> u32 {
        let key = key as u32;
        match self.scheme {
            // Spread over prefixes, and over the buckets of a segment.
            0 => key << 25 | key.reverse_bits() >> 8,
            // One prefix, as long as can be.
            1 => 0xB400_0000 | key << 17,
            // Groups of equal tags.
            2 => (key % 8) << 29,
            _ => (key % 4) << 30 | (key >> 2) << 20,
        }
    }

    fn new_record(&self, key: usize) -> u32 {
        let mut records = self.records.borrow_mut();
        records.push(Record { key, live: true });
        records.len() as u32
    }

    fn record(&self, index: u32) -> Record {
        self.records.borrow()[index as usize - 1]
    }

    fn kill(&self, index: u32) {
        self.records.borrow_mut()[index as usize - 1].live = false;
    }

    fn live(&self, key: usize) -> u32 {
        self.live.borrow()[key]
    }

    fn claim(&self, key: usize) -> bool {
        let claimed = self.claimed.get();
        self.claimed.set(claimed | 1 << key);
        claimed >> key & 1 == 0
    }

    fn unclaim(&self, key: usize) {
        self.claimed.set(self.claimed.get() & !(1 << key));
    }

    fn point(&self, place: Place) {
        let may = || {
            let (held, limit) = self.tree.held();
            place != Place::Frozen || limit - held >= ROOM_TO_HELP
        };
        self.schedule.point(may, || self.operation());
    }

    /// What the probe of a search for `key` says of a record; others may run before it looks.
    fn verdict(&self, key: usize, index: u32) -> Verdict {
        self.point(Place::Open);
        match self.record(index) {
            Record { key: other, .. } if other != key => Verdict::Other,
            Record { live: true, .. } => Verdict::Found,
            Record { .. } => Verdict::Gone,
        }
    }

    fn operation(&self) {
        if self.bytes.is_empty() || !self.schedule.take_operation() {
            return;
        }
        let choice = self.bytes.next();
        let Some(running) = self.schedule.begin(usize::from(choice >> 6)) else { return };
        let thread = running.thread;
        match choice % 16 {
            0..=3 => self.insert(thread, self.bytes.below(KEYS)),
            4 => self.run(|key| self.insert(thread, key)),
            5 | 6 => self.remove(thread, self.bytes.below(KEYS)),
            7 => self.run(|key| self.remove(thread, key)),
            8 => self.relocate(thread, self.bytes.below(KEYS)),
            9 => self.find(thread, self.bytes.below(KEYS)),
            10 => self.walk(thread),
            11 => {
                self.tree.tidy(self.tag(self.bytes.below(KEYS)), &self.tree.pin(thread));
            }
            12 => self.toggle_pin(thread),
            13 | 14 => self.schedule.arm(self.bytes.next() % 64, 1 + choice / 16 % 4),
            _ => self.tree.flush(thread),
        }
        drop(running);
        self.check_bytes();
    }

    /// The same with several keys after each other.
    fn run(&self, each: impl Fn(usize)) {
        let (first, shape) = (self.bytes.below(KEYS), usize::from(self.bytes.next()));
        (0..2 + shape % 16).for_each(|i| each((first + i * (1 + shape / 64)) % KEYS));
    }

    fn insert(&self, thread: usize, key: usize) {
        let index = self.new_record(key);
        match self.tree.insert(self.tag(key), index, &self.tree.pin(thread), |other| self.verdict(key, other)) {
            Inserted::Done => {
                assert_eq!(self.live(key), 0, "key {key} has two rows");
                self.live.borrow_mut()[key] = index;
            }
            Inserted::Exists(other) => {
                assert!(other != index && self.record(other).key == key && self.record(other).live);
                self.kill(index);
            }
            Inserted::Refused => self.kill(index),
        }
    }

    fn remove(&self, thread: usize, key: usize) {
        // First: pinning may run what is due, and so other threads.
        let pinned = self.tree.pin(thread);
        let index = self.live(key);
        if index == 0 {
            let missing = self.new_record(key);
            self.kill(missing);
            assert!(!self.tree.remove(self.tag(key), missing, &pinned), "what was never there was removed");
        } else if self.claimed.get() >> key & 1 == 0 {
            self.kill(index);
            self.live.borrow_mut()[key] = 0;
            self.went.borrow_mut()[key] += 1;
            let forget = |walk: Option<Walk>| walk.map(|walk| Walk { stay: walk.stay & !(1 << key), ..walk });
            self.walks.set(self.walks.get().map(forget));
            self.point(Place::Open);
            assert!(self.tree.remove(self.tag(key), index, &pinned), "key {key} was not there to remove");
        }
    }

    fn relocate(&self, thread: usize, key: usize) {
        let from = self.live(key);
        if from == 0 || !self.claim(key) {
            return;
        }
        let (to, pinned) = (self.new_record(key), self.tree.pin(thread));
        self.point(Place::Open);
        assert!(self.tree.relocate(self.tag(key), from, to, &pinned), "key {key} was not there to move");
        self.live.borrow_mut()[key] = to;
        self.point(Place::Open);
        self.kill(from);
        self.unclaim(key);
    }

    fn find(&self, thread: usize, key: usize) {
        let before = (self.live(key) != 0, self.went.borrow()[key]);
        match self.tree.find(self.tag(key), &self.tree.pin(thread), |other| self.verdict(key, other)) {
            Some(index) => assert!(self.record(index).key == key && self.record(index).live),
            None => assert_ne!(before, (true, self.went.borrow()[key]), "key {key} is lost"),
        }
    }

    fn walk(&self, thread: usize) {
        let mut walks = self.walks.get();
        if walks[thread].is_none() {
            let live = self.live.borrow().iter().rev().fold(0, |bits, &index| bits << 1 | u128::from(index != 0));
            walks[thread] = Some(Walk { at: 0, stay: live, seen: 0, live: 0, twice: 0 });
            self.walks.set(walks);
        }
        let Some(Walk { at, mut seen, live: mut seen_live, mut twice, .. }) = walks[thread] else { return };
        let next = self.tree.walk(at, &self.tree.pin(thread), |tag, index| {
            self.point(Place::Open);
            let Record { key, live } = self.record(index);
            assert_eq!(tag, self.tag(key));
            seen |= 1 << key;
            if live {
                twice |= seen_live & 1 << key;
                seen_live |= 1 << key;
            }
        });
        let mut walks = self.walks.get();
        let Some(Walk { stay, .. }) = walks[thread] else { return };
        walks[thread] = next.map(|at| Walk { at, stay, seen, live: seen_live, twice });
        self.walks.set(walks);
        if next.is_none() {
            assert_eq!(stay & !seen, 0, "a walk missed a row that stayed");
            assert_eq!(stay & twice, 0, "a walk saw a row twice");
        }
    }

    fn toggle_pin(&self, thread: usize) {
        // Not with the pins borrowed, as above.
        let pinned = self.tree.pin(thread);
        let held = self.pins.borrow_mut()[thread].take();
        if held.is_none() {
            let before = self.tree.awaiting();
            self.pins.borrow_mut()[thread] = Some(Held { _pinned: pinned, before, most: before });
        }
    }

    /// Held bytes are the directory's and those of retired segments, which no pin lets go that was there before.
    fn check_bytes(&self) {
        let (awaiting, (held, limit)) = (self.tree.awaiting(), self.tree.held());
        assert!(held <= limit);
        if self.schedule.quiet() {
            assert_eq!(held, self.tree.bytes() + awaiting);
        }
        for pin in self.pins.borrow_mut().iter_mut().flatten() {
            assert!(awaiting + pin.before >= pin.most, "a retired segment went under a pin");
            pin.most = pin.most.max(awaiting);
        }
    }

    /// Everything that should be there is found, and a walk gives it once and nothing else.
    fn check_all(&self) {
        let live = self.live.borrow();
        let pinned = self.tree.pin(0);
        for (key, &expected) in live.iter().enumerate() {
            let found = self.tree.find(self.tag(key), &pinned, |other| self.verdict(key, other));
            assert_eq!(found.unwrap_or(0), expected, "key {key}");
        }
        let (mut rows, mut at) = (0, Some(0));
        while let Some(from) = at {
            at = self.tree.walk(from, &pinned, |_, index| {
                assert_eq!(live[self.record(index).key], index);
                rows += 1;
            });
        }
        assert_eq!(rows, live.iter().filter(|&&index| index != 0).count());
    }
}

fuzz_target!(|data: &[u8]| {
    let bytes = &Bytes::new(data);
    let shape = bytes.next();
    // Ample, or room for a few segments only.
    let budget = if shape & 4 == 0 { 1 << 20 } else { 1024 + 64 * u64::from(shape >> 3) };
    let Some(tree) = Tree::new(budget, THREADS) else { return };
    let world = World {
        tree: &tree,
        bytes,
        schedule: Schedule::new(OPERATIONS),
        scheme: shape & 3,
        records: RefCell::new(Vec::with_capacity(64)),
        live: RefCell::new([0; KEYS]),
        went: RefCell::new([0; KEYS]),
        claimed: Cell::new(0),
        walks: Cell::new([None; THREADS]),
        pins: RefCell::default(),
    };
    interruptible(&|place| world.point(place), || {
        while !bytes.is_empty() && world.schedule.goes_on() {
            world.operation();
        }
    });
    world.schedule.disarm();
    world.check_all();
    let pins = world.pins.take();
    let remains = tree.drop_directory();
    drop(pins);
    assert_eq!(remains.drain(), 0, "bytes are left of a directory that is gone");
});
