//! A thread that panics anywhere takes nobody with it.
//!
//! Claims, pins, locks, magazines, superblocks on their way out and records on theirs are given back as the panic passes.
//! What stands half done at that very moment is lost, at most one of it a panic; [`lost`] says what, and how
//! [`Store::validate`](crate::Store::validate) tells. In a build that users make nothing at these points can panic short
//! of a defect: allocations abort, and the store calls no code of its users.

use super::*;
use crate::store::StoreError;

/// How `validate` tells what a panic at a point loses; `None` if nothing is lost.
fn lost(point: Point) -> Option<&'static str> {
    let _ = point;
    None
}

#[test]
fn a_panic_anywhere_reaches_its_thread_and_the_store_goes_on() {
    for &point in Point::ALL {
        let case = case(point);
        let scene = &Scene::new(case.kind);
        std::thread::scope(|scope| {
            let (go, armed) = mpsc::channel();
            let struck = scope.spawn(move || {
                armed.recv().unwrap();
                scene.play(case.script);
            });
            let trap = arm(struck.thread().id(), point, case.skip, Action::Panic);
            go.send(()).unwrap();
            let panic = struck.join().expect_err("it was to panic");
            assert!(trap.reached() && panic.downcast_ref() == Some(&"injected"), "{point:?}: another panic");
            drop(trap);
            scene.check_claims(Claims::None);
            let others = (1..=2).map(|seed| scope.spawn(move || scene.work(seed, &Default::default())));
            join_all(&format!("{point:?}: ordinary work after a panic"), others.collect());
            let round = scope.spawn(move || scene.store.prune().map(drop).unwrap());
            join_all(&format!("{point:?}: a round after a panic"), vec![round]);
            let churn = scope.spawn(move || scene.churn(3, true));
            join_all(&format!("{point:?}: growth after a panic"), vec![churn]);
        });
        scene.store.prune().unwrap();
        let (stats, found) = (scene.store.stats(), scene.store.validate());
        assert!(stats.peak <= stats.budget);
        eprintln!("{point:?}: retired {} {found:?}", stats.retired);
        match lost(point) {
            None => found.unwrap_or_else(|violation| panic!("{point:?}: {violation}")),
            Some(what) => assert!(found.is_err_and(|violation| violation.what.contains(what)), "{point:?}"),
        }
    }
}

/// Training must not go on for ever without pruning and nobody the wiser.
#[test]
fn a_panic_of_the_pruning_thread_is_told_by_every_step() {
    let scene = Scene::new(Kind::Sparse);
    let pruner = scene.store.pruner.as_ref().unwrap();
    let trap = arm(pruner.thread(), Point::Compacted, 0, Action::Panic);
    assert!(scene.store.step().is_ok());
    pruner.wake();
    let until = Instant::now() + LIMIT;
    while !pruner.has_ended() {
        assert!(Instant::now() < until, "the round did not come to its point");
        sleep(Duration::from_millis(1));
    }
    assert!(trap.reached());
    for _ in 0..3 {
        let steps = scene.store.stats().steps;
        let error = scene.store.step().unwrap_err();
        assert!(matches!(error, StoreError::PrunerEnded) && error.to_string().contains("pruning thread"), "{error}");
        assert_eq!(scene.store.stats().steps, steps + 1, "the step counts all the same");
    }
    // What needs no pruning thread goes on.
    scene.work(1, &Default::default());
    scene.store.prune().unwrap();
    scene.store.validate().unwrap();
}
