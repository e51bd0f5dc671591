//! Models of what threads do to each other, run by loom in every interleaving: `.ci/loom.sh`.
//!
//! Two threads, once three, superblocks of 64 bytes, buckets of two slots. Where nothing is reclaimed the guard is an
//! unprotected one, because a real pin multiplies the interleavings. Models about reclamation pin for real; those that
//! only need what they look at to stay, and not to be reclaimed meanwhile, pin their threads before these run. Each
//! model has the bound on preemptions with which it ends within seconds; `LOOM_MAX_PREEMPTIONS` can lower it.

mod budget;
mod directory;
mod freed;
mod reclaim;
mod rows;
mod sequence;
mod slab;
mod snapshot;

use crate::budget::Budget;
use crate::id::ChunkIndex;
use crate::sync::{AtomicU32, Ordering};
use crossbeam_epoch::{Collector, Guard, LocalHandle};
use std::sync::{Arc, Mutex};

/// Explores `body` with at most `preemptions` switches away from a thread that could go on.
fn explore(name: &str, preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(builder.preemption_bound.map_or(preemptions, |bound| bound.min(preemptions)));
    let executions = Arc::new(Mutex::new(0u64));
    let count = Arc::clone(&executions);
    let start = std::time::Instant::now();
    builder.check(move || {
        *count.lock().unwrap() += 1;
        body();
    });
    eprintln!("{name}: {} executions in {:.1} s", executions.lock().unwrap(), start.elapsed().as_secs_f64());
}

fn spawn<T: 'static>(body: impl FnOnce() -> T + 'static) -> loom::thread::JoinHandle<T> {
    loom::thread::spawn(body)
}

/// A guard for models in which nothing is reclaimed.
fn no_guard() -> &'static Guard {
    // SAFETY: the models that use it retire nothing while another thread runs, or only a superblock, whose words are not
    // freed by that, and which the other thread could not mistake for anything but what it is.
    unsafe { crossbeam_epoch::unprotected() }
}

/// A pin for each of `N` threads, taken before they run.
fn pins<const N: usize>() -> [Guard; N] {
    let collector = Collector::new();
    std::array::from_fn(|_| collector.register().pin())
}

/// Runs what was retired through this thread's collector, unless another thread's pin keeps it from that.
fn run_what_is_due(handle: &LocalHandle) {
    for _ in 0..3 {
        handle.pin().flush();
    }
}

fn index(raw: u32) -> ChunkIndex {
    ChunkIndex::from_raw(raw).unwrap()
}

fn words<const N: usize>(values: [u32; N]) -> Arc<[AtomicU32]> {
    values.map(AtomicU32::new).into_iter().collect()
}

fn add(word: &AtomicU32, by: f32) {
    let before = f32::from_bits(word.load(Ordering::Relaxed));
    word.store((before + by).to_bits(), Ordering::Relaxed);
}

/// Loom as published never tries the exchange before the load.
#[test]
fn canary_the_checker_sees_an_exchange_before_a_load() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let values = Arc::clone(&seen);
    explore("canary", 2, move || {
        let word = Arc::new(AtomicU32::new(0));
        let theirs = Arc::clone(&word);
        let thread = spawn(move || {
            let before = theirs.load(Ordering::Relaxed);
            let _ = theirs.compare_exchange(before, before + 1, Ordering::Relaxed, Ordering::Relaxed);
        });
        values.lock().unwrap().push(word.load(Ordering::Relaxed));
        thread.join().unwrap();
    });
    let seen = seen.lock().unwrap();
    assert!(
        seen.contains(&0) && seen.contains(&1),
        "only {seen:?}: this loom is not corrected, see .ci/correct_loom.py"
    );
}
