//! A thread that stops anywhere holds up nobody but those who need what it holds: for every point of
//! [`failpoint`](crate::failpoint), one thread stops there, and others go on.
//!
//! What may wait for it: who needs the one row it has claimed; another round, if it is in one; the reuse of memory, if
//! it is pinned. Nothing else.

mod cases;
mod scene;

use crate::failpoint::{Action, Point, Trap, arm};
use cases::{Case, Claims, case};
use scene::{DIM, Scene, rows, shared};
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
