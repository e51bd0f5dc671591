//! A thread that stops anywhere holds up nobody but those who need what it holds: for every point of
//! [`failpoint`](crate::failpoint), one thread stops there, and others go on.
//!
//! What may wait for it: who needs the one row it has claimed; another round, if it is in one; the reuse of memory, if
//! it is pinned. Nothing else.

mod cases;
mod faults;
mod panics;
mod scene;

use crate::failpoint::{Action, Point, Trap, arm};
use cases::{Case, Claims, case};
use scene::{BUDGET, DIM, Kind, Scene, gradients, rows, shared};
use std::sync::mpsc;
use std::thread::{Scope, ScopedJoinHandle, sleep};
use std::time::{Duration, Instant};

/// More than anything here takes on the slowest machine; what waits for the stopped thread takes for ever.
const LIMIT: Duration = Duration::from_secs(30);
/// What is to be seen waiting is given so long to come through.
const SHORT: Duration = Duration::from_millis(30);

/// Waits for threads that must end by themselves.
fn join_all<'s, T>(what: &str, threads: Vec<ScopedJoinHandle<'s, T>>) -> Vec<T> {
    let until = Instant::now() + LIMIT;
    while !threads.iter().all(ScopedJoinHandle::is_finished) {
        assert!(Instant::now() < until, "{what} waits");
        sleep(Duration::from_micros(200));
    }
    threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
}

/// Runs `others` while one thread is stopped at `point`, lets it go, and looks at what is left.
fn with_one_stopped(point: Point, others: impl for<'s, 'e> FnOnce(&'s Scope<'s, 'e>, &'e Scene, &Case, Trap)) {
    let case = case(point);
    let scene = Scene::new(case.kind);
    std::thread::scope(|scope| {
        let (go, armed) = mpsc::channel();
        let (scene, script) = (&scene, case.script);
        let stopped = scope.spawn(move || {
            armed.recv().unwrap();
            scene.play(script);
        });
        let trap = arm(stopped.thread().id(), point, case.skip, Action::Stall);
        go.send(()).unwrap();
        let until = Instant::now() + LIMIT;
        while !trap.wait(SHORT) {
            assert!(!stopped.is_finished() && Instant::now() < until, "{point:?} is not reached by {script:?}");
        }
        others(scope, scene, &case, trap);
        stopped.join().unwrap_or_else(|_| panic!("{point:?}: the stopped thread failed after it was let go"));
    });
    scene.store.prune().unwrap();
    scene.store.validate().unwrap_or_else(|violation| panic!("{point:?}: {violation}"));
    let stats = scene.store.stats();
    assert_eq!(stats.retired, 0, "{point:?}: memory waits for a thread that has gone on");
    assert!(stats.peak <= stats.budget);
}

/// A thread that wants a row which the stopped thread has claimed: it waits, and comes through after `trap` is gone.
fn waits_for_row<'s>(
    scope: &'s Scope<'s, '_>,
    scene: &'s Scene,
    table: crate::TableId,
    key: u64,
) -> [ScopedJoinHandle<'s, ()>; 1] {
    let reader = scope.spawn(move || scene.store.gather(table, &[key], &mut [0.0; DIM]).unwrap());
    sleep(SHORT);
    assert!(!reader.is_finished(), "a row that is being written was read");
    [reader]
}

#[test]
fn a_thread_that_stops_anywhere_holds_up_only_who_needs_what_it_holds() {
    for &point in Point::ALL {
        let begin = Instant::now();
        with_one_stopped(point, |scope, scene, case, trap| {
            let claimed = scene.check_claims(case.claims);
            scene.check_counts(case.script);
            let avoid = claimed.clone();
            let mut waiting: Vec<_> =
                claimed.iter().flat_map(|&key| waits_for_row(scope, scene, rows(), key)).collect();
            if case.claims == Claims::Shared {
                waiting.extend(waits_for_row(scope, scene, shared(), u64::MAX));
            }
            let others = (1..=2).map(|seed| {
                let avoid = avoid.clone();
                scope.spawn(move || scene.work(seed, &avoid))
            });
            join_all(&format!("{point:?}: ordinary work"), others.collect());
            // Memory that nobody reads comes back, or, behind a pin, is reported, and growth is refused when it is used up.
            scene.store.inner.collect();
            let retired = scene.store.stats().retired;
            assert_eq!(retired > 0, case.pinned, "{point:?}: {retired} bytes retired, pinned: {}", case.pinned);
            // A removal from a segment that the stopped thread froze needs room to copy it (design, invariant 5).
            let removes = !case.freezes;
            let churn = vec![scope.spawn(move || scene.churn(3, removes))];
            let refused = join_all(&format!("{point:?}: growth to the limit"), churn)[0];
            assert_eq!(refused, case.pinned || !removes, "{point:?}: growth refused");
            if case.in_round() {
                assert!(scene.store.inner.round.try_lock().is_none(), "{point:?} is within a round");
            } else {
                let round = scope.spawn(|| {
                    scene.store.prune().unwrap();
                });
                join_all(&format!("{point:?}: a round"), vec![round]);
            }
            assert!(waiting.iter().all(|reader| !reader.is_finished()));
            drop(trap);
            join_all(&format!("{point:?}: the reader of its row"), waiting);
        });
        eprintln!("{point:?}: {:.2} s", begin.elapsed().as_secs_f64());
    }
}

/// What a batch may wait for is one row, not a round.
#[test]
fn no_batch_waits_for_a_round() {
    for &point in Point::ALL.iter().filter(|&&point| case(point).in_round()) {
        with_one_stopped(point, |scope, scene, case, trap| {
            let claimed = scene.check_claims(case.claims);
            let batches = (0..2).map(|_| {
                let keys: Vec<u64> = scene.keys.iter().copied().filter(|key| !claimed.contains(key)).collect();
                scope.spawn(move || {
                    let mut out = vec![0.0; keys.len() * DIM];
                    for _ in 0..5 {
                        scene.store.gather(rows(), &keys, &mut out).unwrap();
                        scene.store.apply_gradients(rows(), &keys, &gradients(&keys)).unwrap();
                        scene.store.step().unwrap();
                    }
                })
            });
            join_all(&format!("{point:?}: batches of all rows"), batches.collect());
            drop(trap);
        });
    }
}

/// Reads, listings and training behind a thread that stays pinned, and beside a listing that stays open.
#[test]
fn memory_behind_a_reader_that_stays_is_bounded_reported_and_comes_back() {
    with_one_stopped(Point::RowHalfRead, |scope, scene, _, trap| {
        let mut listing = scene.store.iter(rows()).unwrap();
        assert!(listing.next().is_some());
        let before = scene.store.stats();
        let churn = scope.spawn(move || {
            let mut refused = 0;
            for seed in 10..30 {
                refused += u32::from(scene.churn(seed, true));
                scene.store.prune().unwrap();
                let stats = scene.store.stats();
                assert!(stats.held <= stats.budget && stats.retired > before.retired, "{stats:?}");
                // What is held and not retired is no more than it was: the rest waits for the reader, and says so.
                assert!(stats.held - stats.retired <= before.held, "{stats:?}");
            }
            refused
        });
        assert_eq!(join_all("growth behind a reader", vec![churn]), [20], "growth is refused, not blocked");
        let retired = scene.store.stats().retired;
        assert!(retired > BUDGET / 4, "{retired} bytes wait for the reader");
        drop(trap);
        assert!(listing.count() > 0, "an open listing goes on");
    });
}

/// With room to copy it, whoever removes a row puts a segment that another thread froze out of the way itself.
#[test]
fn a_removal_helps_a_frozen_segment_along() {
    for point in [Point::WordFrozen, Point::SegmentFrozen, Point::SuccessorBuilt] {
        with_one_stopped(point, |scope, scene, _, trap| {
            let removal = scope.spawn(move || {
                scene.keys.iter().for_each(|&key| assert!(scene.store.remove(rows(), key).unwrap()));
            });
            join_all(&format!("{point:?}: removal alone"), vec![removal]);
            drop(trap);
        });
    }
}

/// The one place where removal waits (design, invariant 5): a frozen segment, and no room to copy it for the thread that
/// froze it.
#[test]
fn a_removal_waits_for_a_frozen_segment_only_when_the_budget_is_full_to_the_last_byte() {
    for point in [Point::WordFrozen, Point::SegmentFrozen, Point::SuccessorBuilt] {
        with_one_stopped(point, |scope, scene, _, trap| {
            let inner = &scene.store.inner;
            let full = inner.budget.limit() - inner.budget.held();
            inner.budget.reserve_urgent(full).unwrap();
            // Those removed in time, and those that wait.
            let removals: Vec<_> = (0..4)
                .map(|part| {
                    scope.spawn(move || {
                        let keys = scene.keys.iter().skip(part).step_by(4);
                        keys.map(|&key| u32::from(scene.store.remove(rows(), key).unwrap())).sum::<u32>()
                    })
                })
                .collect();
            let mut out = vec![0.0; scene.keys.len() * DIM];
            let reader = scope.spawn(move || scene.store.gather(rows(), &scene.keys, &mut out).unwrap());
            join_all("lookups", vec![reader]);
            let until = Instant::now() + LIMIT;
            while scene.store.stats().rows == scene.keys.len() as u64 {
                assert!(Instant::now() < until, "{point:?}: no removal comes through");
                sleep(Duration::from_millis(1));
            }
            sleep(SHORT);
            let waiting = removals.iter().filter(|removal| !removal.is_finished()).count();
            assert!(waiting > 0 || point == Point::WordFrozen, "{point:?}: every removal came through");
            drop(trap);
            assert_eq!(join_all("removals", removals).iter().sum::<u32>(), scene.keys.len() as u32);
            inner.budget.release(full);
        });
    }
}
