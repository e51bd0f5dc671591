//! Retiring and reclaiming against a thread that is pinned, with real pins.

use super::rows::{HEADS, MISSING, Rows};
use super::*;
use crate::directory::{Directory, Probe};
use crate::magazine::Magazine;

const OTHER_KEY: u64 = 9;

/// Lets another row have the record at `head`, if that is free.
fn reuse(rows: &Rows, head: ChunkIndex, guard: &Guard) -> bool {
    let mut magazine = Magazine::default();
    let heads = rows.slabs.get(HEADS);
    let mut free = std::iter::from_fn(|| heads.alloc_existing(&mut magazine, guard));
    let reused = free.any(|index| index == head);
    if reused {
        rows.init(head, OTHER_KEY, (0, 9.0));
    }
    reused
}

/// A row with one chunk of 3.0, and a handle for each of two threads.
fn row_and_handles() -> (Arc<Rows>, ChunkIndex, LocalHandle, LocalHandle) {
    let (rows, head) = Rows::with(&[(0, 3.0)]);
    let collector = Collector::new();
    (rows, head, collector.register(), collector.register())
}

/// Lets another thread do `body` under one pin. It hands its handle back, so that nothing is collected as it ends.
fn spawn_pinned<T: 'static>(
    rows: &Arc<Rows>,
    handle: LocalHandle,
    body: impl FnOnce(&Rows, &Guard) -> T + 'static,
) -> loom::thread::JoinHandle<(T, LocalHandle)> {
    let rows = Arc::clone(rows);
    spawn(move || {
        let answer = body(&rows, &handle.pin());
        (answer, handle)
    })
}

#[test]
fn reclaim_an_update_meets_its_row_or_its_end() {
    explore("reclaim: find and update, evict and reuse", 2, || {
        let (rows, head, handle, their_handle) = row_and_handles();
        let thread =
            spawn_pinned(&rows, their_handle, |rows, guard| rows.find(guard).map(|head| rows.add_to_all(head, 1.0)));
        rows.evict(head, &handle.pin());
        run_what_is_due(&handle);
        let reused = reuse(&rows, head, &handle.pin());
        let _their_handle = thread.join().unwrap();
        if reused {
            assert_eq!(rows.read(head), Ok([9.0, MISSING]), "an update for another row");
        }
        run_what_is_due(&handle);
        assert!(reused || reuse(&rows, head, &handle.pin()), "what was retired is free once nobody is pinned");
        assert_eq!(rows.slabs.retired_bytes(), 0);
    });
}

#[test]
fn reclaim_a_read_of_a_row_that_moves_is_of_that_row() {
    explore("reclaim: find and read, move and reuse", 2, || {
        let (rows, head, handle, their_handle) = row_and_handles();
        let thread = spawn_pinned(&rows, their_handle, |rows, guard| rows.find(guard).map(|head| rows.read(head)));
        let guard = handle.pin();
        rows.relocate(head, &guard);
        rows.retire_head(head, &guard);
        drop(guard);
        run_what_is_due(&handle);
        reuse(&rows, head, &handle.pin());
        let (read, _their_handle) = thread.join().unwrap();
        let read = read.expect("a row that moves is there all the time");
        assert!(matches!(read, Err(_) | Ok([3.0, MISSING])), "{read:?} of another row");
    });
}

#[test]
fn reclaim_a_segment_stays_while_it_is_looked_at() {
    explore("reclaim: find, replace segment and free it", 2, || {
        let budget = Arc::new(Budget::new(1 << 20));
        let directory = Arc::new(Directory::new(Arc::clone(&budget)).unwrap());
        let collector = Collector::new();
        let (handle, their_handle) = (collector.register(), collector.register());
        // The one bucket of the segment is full, so the next insert replaces it.
        for raw in [10, 20] {
            directory.insert(0, index(raw), no_guard(), |_| Probe::Other).unwrap();
        }
        let theirs = Arc::clone(&directory);
        let thread = spawn(move || {
            let found = theirs
                .find(0, &their_handle.pin(), |found| if found == index(20) { Probe::Found } else { Probe::Other });
            (found, their_handle)
        });
        directory.insert(0, index(30), &handle.pin(), |_| Probe::Other).unwrap();
        run_what_is_due(&handle);
        let (found, _their_handle) = thread.join().unwrap();
        assert_eq!(found, Some(index(20)));
        run_what_is_due(&handle);
        assert_eq!((budget.awaiting(), budget.held()), (0, directory.bytes()), "freed once nobody is pinned");
    });
}

/// However often reclaiming is asked for, nothing goes that a thread which is pinned can still hold; when it unpins, all
/// of it goes, whoever asks.
#[test]
fn reclaim_waits_for_whoever_is_pinned() {
    explore("reclaim: unpin and ask, evict and ask", 2, || {
        let (rows, head, handle, their_handle) = row_and_handles();
        let guard = handle.pin();
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || {
            theirs.evict(head, &their_handle.pin());
            run_what_is_due(&their_handle);
            their_handle
        });
        assert!(!rows.slabs.get(HEADS).is_free(head), "free under a pin");
        drop(guard);
        let their_handle = thread.join().unwrap();
        run_what_is_due(&their_handle);
        assert!(rows.slabs.get(HEADS).is_free(head));
        assert_eq!(rows.slabs.retired_bytes(), 0);
    });
}
