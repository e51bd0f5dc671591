//! Pairs of alloc and free in five orders, on one thread and on two.

use crate::blocks::{Hand, Peer};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Operations after which a hand is told.
pub(crate) const PAUSE: usize = 64;
/// Blocks that are taken before the first of them is freed.
pub(crate) const BURST: usize = 4096;
/// Blocks between a thread that takes and one that frees.
const ON_THE_WAY: usize = 8192;
/// Live blocks of all threads.
const LIVE: usize = 1_000_000;

pub(crate) const COLUMNS: [&str; 10] = [
    "LIFO pair, 1 thread",
    "2 threads",
    "burst of 4,096, 1 thread",
    "2 threads",
    "churn, 1M live, 1 thread",
    "2 threads",
    "churn by 64, 1 thread",
    "2 threads",
    "freed by the other thread",
    "both ways",
];
pub(crate) const PARTS: usize = 8;

/// A small generator (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((u128::from(self.0) * u128::from(n)) >> 64) as u64
    }
}

/// Columns, and million pairs a second in them.
pub(crate) type Rates = Vec<(usize, f64)>;

/// Measures one part: one or two of the columns.
pub(crate) fn measure<P: Peer>(peer: &P, part: usize, time: Duration, seed: u64) -> Rates {
    let threads = 1 + part % 2;
    match part {
        0 | 1 => vec![(part, on_threads(peer, threads, seed, |hand, _, start| lifo(hand, start, time)))],
        2 | 3 => vec![(part, on_threads(peer, threads, seed, |hand, _, start| burst(hand, start, time)))],
        4 | 5 => {
            let single = |hand: &mut P::Hand<'_>, random: &mut Random, start: &Barrier| {
                churn(hand, random, start, time, LIVE / threads, 1)
            };
            let by_64 = |hand: &mut P::Hand<'_>, random: &mut Random, start: &Barrier| {
                churn(hand, random, start, time, LIVE / threads, PAUSE)
            };
            vec![(part, on_threads(peer, threads, seed, single)), (part + 2, on_threads(peer, threads, seed, by_64))]
        }
        6 => vec![(8, one_way(peer, time))],
        _ => vec![(9, both_ways(peer, time))],
    }
}

/// Million a second of all threads, each of which tells its own rate.
fn on_threads<P: Peer>(
    peer: &P,
    threads: usize,
    seed: u64,
    work: impl Fn(&mut P::Hand<'_>, &mut Random, &Barrier) -> f64 + Sync,
) -> f64 {
    let start = Barrier::new(threads);
    std::thread::scope(|scope| {
        let run = |thread: usize| {
            let (work, start) = (&work, &start);
            scope.spawn(move || {
                work(&mut peer.hand(), &mut Random(0x9E37_79B9_7F4A_7C15 ^ (seed * 16 + thread as u64)), start)
            })
        };
        let running: Vec<_> = (0..threads).map(run).collect();
        running.into_iter().map(|thread| thread.join().expect("a peer does not panic")).sum()
    })
}

/// Repeats something until the time is over. Returns million a second.
fn rate(time: Duration, each: usize, mut work: impl FnMut()) -> f64 {
    // Not measured: caches and the allocator's own first steps.
    work();
    let (begun, mut done) = (Instant::now(), 0);
    loop {
        work();
        done += each;
        let spent = begun.elapsed();
        if spent >= time {
            return done as f64 / spent.as_secs_f64() / 1e6;
        }
    }
}

fn lifo<H: Hand>(hand: &mut H, start: &Barrier, time: Duration) -> f64 {
    start.wait();
    rate(time, BURST, || {
        for _ in 0..BURST / PAUSE {
            for stamp in 0..PAUSE {
                let block = hand.alloc(stamp as u32);
                hand.free(block);
            }
            hand.pause();
        }
    })
}

fn burst<H: Hand>(hand: &mut H, start: &Barrier, time: Duration) -> f64 {
    let mut blocks = vec![0; BURST];
    start.wait();
    rate(time, BURST, || {
        for blocks in blocks.chunks_mut(PAUSE) {
            blocks.iter_mut().for_each(|block| *block = hand.alloc(7));
            hand.pause();
        }
        for blocks in blocks.chunks(PAUSE) {
            blocks.iter().for_each(|&block| hand.free(block));
            hand.pause();
        }
    })
}

/// Frees `at_once` blocks of `live` drawn at random, and takes as many.
fn churn<H: Hand>(
    hand: &mut H,
    random: &mut Random,
    start: &Barrier,
    time: Duration,
    live: usize,
    at_once: usize,
) -> f64 {
    let mut blocks: Vec<usize> = Vec::with_capacity(live);
    for number in 0..live {
        blocks.push(hand.alloc(number as u32));
        if number % PAUSE == 0 {
            hand.pause();
        }
    }
    let mut drawn = [0; PAUSE];
    start.wait();
    let pairs = rate(time, BURST, || {
        for _ in 0..BURST / PAUSE {
            for _ in 0..PAUSE / at_once {
                // None of a draw comes twice.
                let part = live / at_once;
                for (position, drawn) in drawn[..at_once].iter_mut().enumerate() {
                    *drawn = position * part + random.below(part as u64) as usize;
                    hand.free(blocks[*drawn]);
                }
                for &drawn in &drawn[..at_once] {
                    blocks[drawn] = hand.alloc(7);
                }
            }
            hand.pause();
        }
    });
    start.wait();
    for blocks in blocks.chunks(PAUSE) {
        blocks.iter().for_each(|&block| hand.free(block));
        hand.pause();
    }
    pairs
}

/// A ring of blocks from one thread to another, 64 at a time.
struct Ring {
    slots: Box<[AtomicUsize]>,
    pushed: Padded,
    popped: Padded,
}

#[derive(Default)]
#[repr(align(128))]
struct Padded(AtomicUsize);

impl Ring {
    fn new() -> Ring {
        let slots = (0..ON_THE_WAY).map(|_| AtomicUsize::new(0)).collect();
        Ring { slots, pushed: Padded::default(), popped: Padded::default() }
    }

    /// By the one thread that pushes. False: full.
    fn push(&self, blocks: impl FnOnce() -> [usize; PAUSE]) -> bool {
        let pushed = self.pushed.0.load(Ordering::Relaxed);
        // Acquire: pairs with the Release in `pop`, so the slots were read.
        if pushed - self.popped.0.load(Ordering::Acquire) == ON_THE_WAY {
            return false;
        }
        let start = pushed % ON_THE_WAY;
        for (slot, block) in self.slots[start..start + PAUSE].iter().zip(blocks()) {
            slot.store(block, Ordering::Relaxed);
        }
        // Release: pairs with the Acquire in `pop`.
        self.pushed.0.store(pushed + PAUSE, Ordering::Release);
        true
    }

    /// By the one thread that pops.
    fn pop(&self) -> Option<[usize; PAUSE]> {
        let popped = self.popped.0.load(Ordering::Relaxed);
        if self.pushed.0.load(Ordering::Acquire) == popped {
            return None;
        }
        let start = popped % ON_THE_WAY;
        let blocks = std::array::from_fn(|position| self.slots[start + position].load(Ordering::Relaxed));
        self.popped.0.store(popped + PAUSE, Ordering::Release);
        Some(blocks)
    }
}

/// Pushes new blocks if there is room.
fn give<H: Hand>(hand: &mut H, ring: &Ring) -> bool {
    let given = ring.push(|| std::array::from_fn(|position| hand.alloc(position as u32)));
    if given {
        hand.pause();
    }
    given
}

/// Frees what was pushed, if anything.
fn take<H: Hand>(hand: &mut H, ring: &Ring) -> bool {
    let Some(blocks) = ring.pop() else { return false };
    blocks.into_iter().for_each(|block| hand.free(block));
    hand.pause();
    true
}

/// One thread takes blocks and the other frees them.
fn one_way<P: Peer>(peer: &P, time: Duration) -> f64 {
    let (ring, stop) = (Ring::new(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let freeing = scope.spawn(|| {
            let mut hand = peer.hand();
            // Acquire: pairs with the Release below, so nothing is pushed after an empty ring.
            while take(&mut hand, &ring) || !stop.load(Ordering::Acquire) || take(&mut hand, &ring) {
                std::hint::spin_loop();
            }
        });
        let mut hand = peer.hand();
        let pairs = rate(time, PAUSE * 16, || {
            for _ in 0..16 {
                while !give(&mut hand, &ring) {
                    std::hint::spin_loop();
                }
            }
        });
        stop.store(true, Ordering::Release);
        freeing.join().expect("a peer does not panic");
        pairs
    })
}

/// Two threads, each of which frees what the other takes.
fn both_ways<P: Peer>(peer: &P, time: Duration) -> f64 {
    let (rings, start, end) = ([Ring::new(), Ring::new()], Barrier::new(2), Barrier::new(2));
    let run = |mine: &Ring, theirs: &Ring| {
        let mut hand = peer.hand();
        start.wait();
        let (begun, mut freed) = (Instant::now(), 0);
        let mut spent = begun.elapsed();
        while spent < time {
            for _ in 0..16 {
                give(&mut hand, mine);
                freed += usize::from(take(&mut hand, theirs));
            }
            spent = begun.elapsed();
        }
        // Both have stopped giving.
        end.wait();
        while take(&mut hand, theirs) {}
        (freed * PAUSE) as f64 / spent.as_secs_f64() / 1e6
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| run(&rings[1], &rings[0]));
        run(&rings[0], &rings[1]) + other.join().expect("a peer does not panic")
    })
}
