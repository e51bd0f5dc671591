//! The budget.

use super::*;

/// Bytes 1 to 126 for anyone, 127 and 128 for what is urgent.
const LIMIT: u64 = 128;

/// Holds `bytes` for a moment, if they are to be had, and notes in `inside` who is in it beside.
fn hold(budget: &Budget, inside: &AtomicU32, bytes: u32, urgent: bool) -> bool {
    let asked = u64::from(bytes);
    if if urgent { budget.reserve_urgent(asked) } else { budget.reserve(asked) }.is_err() {
        return false;
    }
    let together = inside.fetch_add(bytes, Ordering::Relaxed) + bytes;
    assert!(u64::from(together) <= LIMIT, "{together} bytes held together");
    inside.fetch_sub(bytes, Ordering::Relaxed);
    budget.release(asked);
    true
}

#[test]
fn budget_is_never_exceeded_and_comes_back() {
    explore("budget: reserve and release, the same, urgently", 3, || {
        let (budget, inside) = (Arc::new(Budget::new(LIMIT)), Arc::new(AtomicU32::new(0)));
        let (theirs, their_inside) = (Arc::clone(&budget), Arc::clone(&inside));
        let thread = spawn(move || {
            assert!(!hold(&theirs, &their_inside, 127, false), "not urgent");
            [100, 26].map(|bytes| hold(&theirs, &their_inside, bytes, false))
        });
        let ours = [100, 28].map(|bytes| hold(&budget, &inside, bytes, true));
        let theirs = thread.join().unwrap();
        // What does not fit beside the other's was refused only because of it: there is room for one at any time.
        assert!(ours[0] || theirs[0], "{ours:?} {theirs:?}");
        assert!(ours[1] && theirs[1], "{ours:?} {theirs:?}");
        assert_eq!(budget.held(), 0);
        assert!(budget.peak() >= 100 && budget.peak() <= LIMIT);
        assert_eq!(budget.reserve_urgent(LIMIT), Ok(()));
    });
}

#[test]
fn budget_bytes_are_had_after_what_had_them_is_gone() {
    explore("budget: release, reserve", 3, || {
        let (budget, gone) = (Arc::new(Budget::new(LIMIT)), Arc::new(AtomicU32::new(0)));
        budget.reserve(100).unwrap();
        let (theirs, their_gone) = (Arc::clone(&budget), Arc::clone(&gone));
        let thread = spawn(move || {
            their_gone.store(1, Ordering::Relaxed);
            theirs.release(100);
        });
        if budget.reserve(100).is_ok() {
            assert_eq!(gone.load(Ordering::Relaxed), 1, "the bytes came before their memory");
        }
        thread.join().unwrap();
    });
}

#[test]
fn budget_that_waits_for_readers_is_released_once() {
    explore("budget: retire and release, reserve and retire and release", 3, || {
        let budget = Arc::new(Budget::new(LIMIT));
        budget.reserve(100).unwrap();
        let theirs = Arc::clone(&budget);
        let thread = spawn(move || {
            theirs.retire(100);
            theirs.release_retired(100);
        });
        if budget.reserve(60).is_ok() {
            budget.retire(60);
            budget.release_retired(60);
        }
        thread.join().unwrap();
        assert_eq!((budget.held(), budget.awaiting()), (0, 0));
    });
}
