//! The directory.

use super::*;
use crate::directory::bucket::row_word;
use crate::directory::segment::{Insert, Segment};
use crate::directory::{Directory, Inserted, Probe};

/// Tags that begin with a 0 and with a 1 bit, so that a split parts them.
const LOW: u32 = 7;
const HIGH: u32 = 1 << 31 | 7;

/// Rows of a segment of two buckets that the next insert splits.
const FULL: [(u32, u32); 3] = [(LOW, 21), (HIGH, 31), (LOW, 41)];

/// An index stands for the key `raw / 10`.
fn probe(key: u32) -> impl Fn(ChunkIndex) -> Probe {
    move |found| if found.raw() / 10 == key { Probe::Found } else { Probe::Other }
}

fn directory(rows: &[(u32, u32)]) -> (Arc<Budget>, Arc<Directory>) {
    let budget = Arc::new(Budget::new(1 << 20));
    let directory = Directory::new(Arc::clone(&budget)).unwrap();
    for &(tag, raw) in rows {
        directory.insert(tag, index(raw), no_guard(), |_| Probe::Other).unwrap();
    }
    (budget, Arc::new(directory))
}

/// Runs `body` on another thread, under a pin that the thread hands back.
fn beside<T: 'static>(
    directory: &Arc<Directory>,
    guard: Guard,
    body: impl FnOnce(&Directory, &Guard) -> T + 'static,
) -> loom::thread::JoinHandle<(T, Guard)> {
    let directory = Arc::clone(directory);
    spawn(move || (body(&directory, &guard), guard))
}

fn exactly_one(ours: Inserted, theirs: Inserted, [our_index, their_index]: [u32; 2]) {
    let done = match (ours, theirs) {
        (Inserted::Done, Inserted::Exists(there)) => there == index(our_index),
        (Inserted::Exists(there), Inserted::Done) => there == index(their_index),
        _ => false,
    };
    assert!(done, "{ours:?}, {theirs:?}");
}

#[test]
fn directory_one_of_two_inserts_of_a_key_wins() {
    explore("directory: insert, insert", 3, || {
        let (_, directory) = directory(&[]);
        let theirs = Arc::clone(&directory);
        let thread = spawn(move || theirs.insert(LOW, index(11), no_guard(), probe(1)).unwrap());
        let ours = directory.insert(LOW, index(12), no_guard(), probe(1)).unwrap();
        exactly_one(ours, thread.join().unwrap(), [12, 11]);
    });
}

#[test]
fn directory_an_insert_sees_all_of_a_bucket_that_is_full() {
    explore("segment: insert past a bucket, fill the bucket", 3, || {
        // Three buckets, the first of which is empty.
        let rows = [(1 << 13, 21), (1 << 13, 31), (1 << 13, 41)].map(|(tag, raw)| row_word(tag, index(raw)));
        let segment = Segment::new(0, 0, &rows).into_shared(no_guard());
        // SAFETY: dropped below, when the other thread has ended.
        let shared: &'static Segment = unsafe { segment.deref() };
        let thread = spawn(move || {
            let first = shared.insert(row_word(1, index(11)), probe(1));
            // Takes the last slot of the bucket, or of the next.
            assert!(matches!(shared.insert(row_word(2, index(51)), probe(5)), Insert::Done));
            matches!(first, Insert::Done)
        });
        let ours = matches!(shared.insert(row_word(1, index(12)), probe(1)), Insert::Done);
        assert_ne!(ours, thread.join().unwrap(), "one of the two has entered the row");
        // SAFETY: made above, and nobody else has it.
        drop(unsafe { segment.into_owned() });
    });
}

#[test]
fn directory_one_of_two_inserts_wins_across_a_replacement() {
    explore("directory: insert, insert, replace", 2, || {
        let (budget, directory) = directory(&[(LOW, 21), (HIGH, 31)]);
        let [guard, their_guard] = pins();
        let thread = beside(&directory, their_guard, |directory, guard| {
            directory.insert(HIGH, index(11), guard, probe(1)).unwrap()
        });
        let ours = directory.insert(HIGH, index(12), &guard, probe(1)).unwrap();
        let (theirs, _their_guard) = thread.join().unwrap();
        exactly_one(ours, theirs, [12, 11]);
        assert_eq!(directory.find(LOW, &guard, probe(2)), Some(index(21)));
        assert_eq!(directory.find(HIGH, &guard, probe(3)), Some(index(31)));
        assert!(directory.find(HIGH, &guard, probe(1)).is_some());
        assert_eq!(budget.held(), directory.bytes() + budget.awaiting(), "reservations that were not used came back");
    });
}

#[test]
fn directory_an_insert_heeds_the_freeze() {
    explore("directory: insert, insert, insert and split", 2, || {
        // The fourth row splits the segment, so the lower half begins with two rows in four slots, room for one more.
        let (_, directory) = directory(&[(LOW, 21), (HIGH, 31), (LOW, 41), (HIGH, 51)]);
        let [guard, their_guard] = pins();
        let thread = beside(&directory, their_guard, |directory, guard| {
            directory.insert(LOW, index(11), guard, probe(1)).unwrap()
        });
        let ours = directory.insert(LOW, index(12), &guard, probe(1)).unwrap();
        // Freezes our row's word before it comes to the last, empty slot. The thread, which may have seen room before,
        // must not go on to that slot.
        directory.insert(LOW, index(61), &guard, probe(6)).unwrap();
        let (theirs, _their_guard) = thread.join().unwrap();
        exactly_one(ours, theirs, [12, 11]);
    });
}

#[test]
fn directory_an_insert_is_not_lost_in_a_split() {
    explore("directory: insert, insert and split", 2, || {
        let (budget, directory) = directory(&FULL);
        let [guard, their_guard] = pins();
        let thread = beside(&directory, their_guard, |directory, guard| {
            directory.insert(LOW, index(11), guard, probe(1)).unwrap()
        });
        let ours = directory.insert(HIGH, index(51), &guard, probe(5)).unwrap();
        let (theirs, _their_guard) = thread.join().unwrap();
        assert_eq!((ours, theirs), (Inserted::Done, Inserted::Done));
        for (tag, raw) in FULL.into_iter().chain([(LOW, 11), (HIGH, 51)]) {
            assert_eq!(directory.find(tag, &guard, probe(raw / 10)), Some(index(raw)));
        }
        assert_eq!(budget.held(), directory.bytes() + budget.awaiting(), "reservations that were not used came back");
    });
}

#[test]
fn directory_a_key_that_goes_can_come_again() {
    explore("directory: end and remove, insert", 3, || {
        let (_, directory) = directory(&[(LOW, 11)]);
        // What the sequence word of the row at 11 says.
        let live = Arc::new(AtomicU32::new(1));
        let (theirs, their_live) = (Arc::clone(&directory), Arc::clone(&live));
        let thread = spawn(move || {
            their_live.store(0, Ordering::Release);
            assert!(theirs.remove(LOW, index(11), no_guard()));
        });
        let probe = |found: ChunkIndex| match found.raw() {
            11 if live.load(Ordering::Acquire) == 0 => Probe::Gone,
            11 | 12 => Probe::Found,
            _ => Probe::Other,
        };
        let ours = directory.insert(LOW, index(12), no_guard(), probe).unwrap();
        thread.join().unwrap();
        match ours {
            Inserted::Done => assert_eq!(directory.find(LOW, no_guard(), probe), Some(index(12))),
            Inserted::Exists(there) => {
                assert_eq!(there, index(11));
                assert_eq!(directory.find(LOW, no_guard(), |_| Probe::Found), None);
            }
        }
    });
}

#[test]
fn directory_a_removal_is_not_lost_in_a_split() {
    explore("directory: remove, insert and split", 2, || {
        let (_, directory) = directory(&FULL);
        let [guard, their_guard] = pins();
        let thread = beside(&directory, their_guard, |directory, guard| {
            directory.insert(LOW, index(11), guard, probe(1)).unwrap()
        });
        assert!(directory.remove(HIGH, index(31), &guard));
        assert_eq!(thread.join().unwrap().0, Inserted::Done);
        assert_eq!(directory.find(HIGH, &guard, probe(3)), None);
        assert_eq!(directory.find(LOW, &guard, probe(2)), Some(index(21)));
        assert_eq!(directory.find(LOW, &guard, probe(1)), Some(index(11)));
    });
}

/// The row that a look-up in stages comes to.
fn in_stages(directory: &Directory, tag: u32, guard: &Guard) -> Option<ChunkIndex> {
    let search = directory.search(guard);
    search.approach(search.set_out(tag), tag).through_all_stages(tag, guard)
}

#[test]
fn directory_a_row_is_found_throughout_a_split() {
    found_throughout_a_split("directory: find, insert and split", |directory, guard| {
        directory.find(HIGH, guard, probe(3))
    });
    found_throughout_a_split("directory: stages, insert and split", |directory, guard| {
        in_stages(directory, HIGH, guard)
    });
}

fn found_throughout_a_split(name: &'static str, look_up: fn(&Directory, &Guard) -> Option<ChunkIndex>) {
    explore(name, 2, move || {
        let (_, directory) = directory(&FULL);
        let [guard, their_guard] = pins();
        let thread = beside(&directory, their_guard, |directory, guard| {
            directory.insert(LOW, index(11), guard, probe(1)).unwrap()
        });
        assert_eq!(look_up(&directory, &guard), Some(index(31)));
        let _their_guard = thread.join().unwrap();
        assert_eq!(look_up(&directory, &guard), Some(index(31)));
    });
}

#[test]
fn directory_a_row_is_found_while_a_node_takes_a_segments_place() {
    explore("directory: find, insert and deepen", 2, || {
        // A full segment for the tags that begin with a 0 bit: its depth is 1, which is all that a root slot can tell.
        let quarter = 1 << 30;
        let rows = [(LOW, 21), (HIGH, 31), (LOW | quarter, 41), (HIGH, 51), (LOW, 61)];
        let (_, directory) = directory(&rows);
        let [guard, their_guard] = pins();
        let thread = beside(&directory, their_guard, |directory, guard| {
            directory.insert(LOW, index(11), guard, probe(1)).unwrap()
        });
        assert_eq!(directory.find(LOW, &guard, probe(2)), Some(index(21)));
        let _their_guard = thread.join().unwrap();
        assert_eq!(directory.find(LOW | quarter, &guard, probe(4)), Some(index(41)));
        assert_eq!(directory.find(LOW, &guard, probe(1)), Some(index(11)));
    });
}

/// What a thread has done before it looks is in a successor that the slots may not lead to yet.
#[test]
fn directory_stages_find_what_their_own_thread_has_just_entered_and_moved() {
    explore("directory: insert, relocate and stages, insert and split", 2, || {
        let (_, directory) = directory(&FULL);
        let [guard, their_guard] = pins();
        let thread = beside(&directory, their_guard, |directory, guard| {
            directory.insert(LOW, index(11), guard, probe(1)).unwrap()
        });
        assert!(directory.relocate(HIGH, index(31), index(32), &guard));
        assert_eq!(in_stages(&directory, HIGH, &guard), Some(index(32)));
        directory.insert(HIGH | 1 << 13, index(51), &guard, probe(5)).unwrap();
        assert_eq!(in_stages(&directory, HIGH | 1 << 13, &guard), Some(index(51)));
        let _their_guard = thread.join().unwrap();
    });
}

#[test]
fn directory_stages_find_a_row_below_nodes_while_its_segment_is_replaced() {
    // Rows that share four bits of their tags, so that all splits are on one way down; which of them is full when the
    // thread comes depends on their number.
    for rows in 4..14 {
        explore("directory: stages, insert and replace below nodes", 2, move || {
            let rows: Vec<(u32, u32)> = (0..rows).map(|row| (1 << 28 | row << 10, row * 10 + 21)).collect();
            let (_, directory) = directory(&rows);
            let [guard, their_guard] = pins();
            let thread = beside(&directory, their_guard, |directory, guard| {
                directory.insert(1 << 28 | 7, index(11), guard, probe(1)).unwrap()
            });
            assert_eq!(in_stages(&directory, rows[1].0, &guard), Some(index(rows[1].1)));
            let _their_guard = thread.join().unwrap();
            assert_eq!(in_stages(&directory, rows[1].0, &guard), Some(index(rows[1].1)));
        });
    }
}
