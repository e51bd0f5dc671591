//! A thread that panics anywhere takes nobody with it.
//!
//! Claims, pins, locks, magazines, superblocks on their way out and records on theirs are given back as the panic passes.
//! What stands half done at that very moment is lost, at most one of it a panic; [`lost`] says what. In a
//! build that users make, nothing at these points can panic short of a defect: allocations abort, and the store calls no
//! code of its users.

use super::*;
use crate::store::StoreError;
use crate::watch::padded;

/// What a panic may lose.
#[derive(Default)]
struct Lost {
    /// Bytes of records that are neither live, free nor retired.
    records: u64,
    /// Bytes that are held for nothing.
    held: u64,
    /// The row in hand is miscounted, or dead and still in its directory.
    row: bool,
}

const RECORD: u64 = padded(9) as u64 * 4;
const WHOLE_ROW: u64 = RECORD + 3 * padded(6) as u64 * 4;
const SUPERBLOCK: u64 = 16 << 10;
/// What replacing a segment reserves, at most.
const REPLACEMENT: u64 = 8 << 10;

/// What a panic at a point loses at most. What it leaves retired or committed for good is counted as that, and not lost.
fn lost(point: Point) -> Lost {
    use Point::*;
    let records = |records| Lost { records, ..Lost::default() };
    match point {
        // One magazine, of the slabs whose turn to be flushed had not come.
        SlotsPutBack => records(32 * RECORD),
        SuperblockReserved => Lost { held: SUPERBLOCK, ..Lost::default() },
        SuperblockAcquired | SuperblockHalfCommitted | SuperblockHalfRetired => records(SUPERBLOCK),
        TailCopied | HeadCopied | HeadPublished => records(RECORD),
        // The room for a segment's successors.
        SuccessorReserved | WordFrozen | SegmentFrozen | SuccessorBuilt | SegmentReplaced | SlotSettled
        | SlotAdvancing | SlotDeepening | SegmentUnlinked | SegmentFreed => {
            Lost { held: REPLACEMENT, ..Lost::default() }
        }
        RowEntered | ChunkTaken | RowKilled | RowRemoved => Lost { records: WHOLE_ROW, held: 0, row: true },
        _ => Lost::default(),
    }
}

/// Bytes of records that are neither live, free nor retired, and bytes that are held for nothing.
fn found_lost(scene: &Scene) -> (u64, u64) {
    let inner = &scene.store.inner;
    let (stats, mut slots) = (scene.store.stats(), 0);
    for slab in inner.slabs.iter() {
        slots += slab.occupancy().count() as u64 * u64::from(slab.slots()) * slab.record_bytes();
    }
    let records = slots - stats.free - inner.slabs.retired_bytes();
    let directories: u64 = stats.tables.iter().map(|table| table.directory).sum();
    let parts = inner.fixed_bytes + directories + inner.superblocks.committed_bytes() + inner.budget.awaiting();
    (records.abs_diff(stats.allocated), stats.held.abs_diff(parts))
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
        assert!(scene.store.stats().peak <= BUDGET);
        let (lost, (records, held)) = (lost(point), found_lost(scene));
        assert!(
            records <= lost.records && held <= lost.held,
            "{point:?}: lost {records} bytes of records, {held} held"
        );
        let nothing = lost.records == 0 && lost.held == 0;
        match scene.store.validate() {
            Ok(()) => assert!(nothing, "{point:?}: nothing is lost, so say so"),
            Err(violation) => assert!(!nothing && (lost.row || records + held > 0), "{point:?}: {violation}"),
        }
    }
}

/// A listing holds nothing between two rows, so there is nothing to give back.
#[test]
fn a_panic_with_a_listing_open_leaves_nothing_pinned() {
    let scene = &Scene::new(Kind::Sparse);
    let struck = std::thread::scope(|scope| {
        let lister = scope.spawn(move || {
            let mut listing = scene.store.iter(rows()).unwrap();
            assert!(listing.next().is_some());
            std::panic::resume_unwind(Box::new("injected"));
        });
        lister.join().is_err()
    });
    assert!(struck && !scene.churn(3, true), "memory waits for a thread that has panicked");
    scene.store.prune().unwrap();
    scene.store.validate().unwrap();
    assert_eq!(scene.store.stats().retired, 0);
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
