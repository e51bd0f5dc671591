//! The phase that rows are saved in: a snapshot against who changes, ends, moves and makes rows.

use super::rows::{HASH, Rows};
use super::*;
use crate::reclaim::Grace;
use crossbeam_epoch::Collector;

/// Words of an image of one chunk, of two.
const IMAGE: usize = 4 + 2;
const WHOLE: usize = 4 + 2 * 2;

/// What is to be seen of a row in a snapshot: its hash, and the weights of its chunks by ordinal.
type Seen = (u64, Vec<(u32, f32)>);

fn read_images(words: &[u32]) -> Vec<Seen> {
    let (mut seen, mut at) = (Vec::new(), 0);
    while at < words.len() {
        let chunks = words[at + 3] as usize;
        let chunk = |position: usize| {
            let chunk = at + 4 + position * 2;
            (words[chunk] & 0xFF, f32::from_bits(words[chunk + 1]))
        };
        let mut chunks: Vec<_> = (0..chunks).map(chunk).collect();
        at += 4 + chunks.len() * 2;
        chunks.sort_by_key(|chunk| chunk.0);
        seen.push((
            u64::from(words[at - chunks.len() * 2 - 2]) << 32 | u64::from(words[at - chunks.len() * 2 - 3]),
            chunks,
        ));
    }
    seen
}

/// Goes over all rows as a snapshot does, then takes what others have kept.
fn save(rows: &Rows, guard: &Guard) -> Vec<Seen> {
    let (chains, mut words, mut heads, mut kept) = (rows.chains(), Vec::new(), Vec::new(), Vec::new());
    rows.directory.walk(0, guard, |tag, head| heads.push((tag, head)));
    for row in heads {
        chains.save(row.1, |claim| chains.copy_image(row, claim, &mut words));
    }
    rows.moment.take(&mut kept);
    words.append(&mut kept);
    read_images(&words)
}

/// One more snapshot, of which every row there is must be a part once.
fn check_next(rows: &Rows, expected: &[Seen]) {
    rows.moment.end();
    rows.moment.begin(false);
    assert_eq!(save(rows, no_guard()), expected, "the next snapshot");
}

#[test]
fn snapshot_has_a_row_once_as_it_was_before_an_update() {
    explore("snapshot: save, update", 3, || {
        let (rows, head) = Rows::with(&[(0, 3.0), (1, 4.0)]);
        rows.moment.begin(false);
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || theirs.add_to_all(head, 1.0).unwrap());
        let mut seen = save(&rows, no_guard());
        thread.join().unwrap();
        seen.extend(save(&rows, no_guard()));
        assert_eq!(seen, [(HASH, vec![(0, 3.0), (1, 4.0)])]);
        check_next(&rows, &[(HASH, vec![(0, 4.0), (1, 5.0)])]);
    });
}

/// When the snapshot has gone over the rows, what it has not copied itself has been kept.
#[test]
fn snapshot_is_whole_when_it_has_gone_over_the_rows() {
    explore("snapshot: save, update and evict", 3, || {
        let (rows, head) = Rows::with(&[(0, 3.0)]);
        rows.moment.begin(false);
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || {
            theirs.add_to_all(head, 1.0).unwrap();
            theirs.evict(head, no_guard());
        });
        assert_eq!(save(&rows, no_guard()), [(HASH, vec![(0, 3.0)])]);
        thread.join().unwrap();
        check_next(&rows, &[]);
    });
}

#[test]
fn snapshot_has_a_row_once_that_moves_and_is_updated() {
    explore("snapshot: save, move and update", 3, || {
        let (rows, head) = Rows::with(&[(0, 3.0)]);
        rows.moment.begin(false);
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || {
            let to = theirs.relocate(head, no_guard());
            theirs.add_to_all(to, 1.0).unwrap();
        });
        assert_eq!(save(&rows, no_guard()), [(HASH, vec![(0, 3.0)])]);
        thread.join().unwrap();
        check_next(&rows, &[(HASH, vec![(0, 4.0)])]);
    });
}

#[test]
fn snapshot_has_a_row_once_that_two_others_update() {
    explore("snapshot: save, update, update", 1, || {
        let (rows, head) = Rows::with(&[(0, 3.0)]);
        rows.moment.begin(false);
        let threads = [0, 1].map(|_| {
            let theirs = Arc::clone(&rows);
            spawn(move || theirs.add_to_all(head, 1.0).unwrap())
        });
        assert_eq!(save(&rows, no_guard()), [(HASH, vec![(0, 3.0)])]);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        check_next(&rows, &[(HASH, vec![(0, 5.0)])]);
    });
}

/// Begun in the middle of others' work, which may not have heard of it: once all the same, and whole.
#[test]
fn snapshot_that_begins_beside_updates_has_each_row_once() {
    explore("snapshot: begin and save, update x 2", 3, || {
        let (rows, head) = Rows::with(&[(0, 3.0), (1, 3.0)]);
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || (0..2).for_each(|_| theirs.add_to_all(head, 1.0).unwrap()));
        rows.moment.begin(false);
        let seen = save(&rows, no_guard());
        let [(HASH, chunks)] = &seen[..] else { panic!("not once: {seen:?}") };
        assert!(chunks[0].1 == chunks[1].1, "torn: {chunks:?}");
        thread.join().unwrap();
        check_next(&rows, &[(HASH, vec![(0, 5.0), (1, 5.0)])]);
    });
}

/// A row that is made while a snapshot begins is in that one or not; in the next one it is.
#[test]
fn snapshot_of_later_has_a_row_that_was_made_while_one_began() {
    explore("snapshot: begin, grace and save, admit", 1, || {
        let rows = Rows::none();
        let collector = Collector::new();
        let (handle, theirs) = (collector.register(), collector.register());
        let maker = Arc::clone(&rows);
        let thread = spawn(move || {
            assert!(maker.admit_whole([3.0, 4.0], &theirs.pin()));
            // Not dropped here, which pins.
            theirs
        });
        rows.moment.begin(false);
        let grace = Grace::begin(&handle.pin());
        for _ in 0..3 {
            run_what_is_due(&handle);
        }
        // Only then does a snapshot go over the rows; else it waits longer, which is not explored.
        if grace.is_over() {
            let first = save(&rows, &handle.pin());
            thread.join().unwrap();
            let row = (HASH, vec![(0, 3.0), (1, 4.0)]);
            assert!(first.is_empty() || first == [row.clone()]);
            check_next(&rows, &[row]);
        } else {
            thread.join().unwrap();
        }
    });
}

/// Whoever is told that the grace period is over finds what was made before it was. The collector's own fences would tell it,
/// too, so the maker ends it here.
#[test]
fn snapshot_finds_what_was_made_before_its_grace_period_was_over() {
    explore("snapshot: grace, admit and end it", 3, || {
        let rows = Rows::none();
        let handle = Collector::new().register();
        let grace = Grace::begin(&handle.pin());
        let (maker, theirs) = (Arc::clone(&rows), grace.clone());
        let thread = spawn(move || {
            assert!(maker.admit_whole([3.0, 4.0], no_guard()));
            theirs.end();
        });
        if grace.is_over() {
            assert_eq!(rows.find(no_guard()).map(|head| rows.read(head)), Some(Ok([3.0, 4.0])));
        }
        thread.join().unwrap();
        assert!(grace.is_over());
    });
}

/// Clean rows are no part of an increment, changed ones are.
#[test]
fn snapshot_of_changes_has_what_was_changed_since() {
    explore("snapshot: save changes, update", 3, || {
        let (rows, head) = Rows::with(&[(0, 3.0)]);
        let other = rows.enter(9, &[(0, 7.0)]);
        rows.moment.begin(false);
        assert_eq!(save(&rows, no_guard()).len(), 2);
        rows.moment.end();
        rows.add_to_all(head, 1.0).unwrap();
        rows.moment.begin(true);
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || {
            theirs.add_to_all(other, 1.0).unwrap();
            theirs.add_to_all(head, 1.0).unwrap();
        });
        let seen = save_changes(&rows);
        assert_eq!(seen, [(HASH, vec![(0, 4.0)])], "only what was changed before");
        thread.join().unwrap();
        rows.moment.end();
        rows.moment.begin(true);
        let mut seen = save_changes(&rows);
        seen.sort_by_key(|row| row.0);
        assert_eq!(seen, [(HASH, vec![(0, 5.0)]), (9, vec![(0, 8.0)])]);
    });
}

fn save_changes(rows: &Rows) -> Vec<Seen> {
    let (chains, mut words, mut heads, mut kept) = (rows.chains(), Vec::new(), Vec::new(), Vec::new());
    rows.directory.walk(0, no_guard(), |tag, head| heads.push((tag, head)));
    for row in heads {
        chains.save(row.1, |claim| {
            if claim.was_changed() {
                chains.copy_image(row, claim, &mut words);
            }
        });
    }
    rows.moment.take(&mut kept);
    words.append(&mut kept);
    read_images(&words)
}

/// Whoever finds no room for an image waits without the row, until images are taken; if nobody takes them for long, the
/// snapshot is given up and they go on.
#[test]
fn snapshot_that_is_not_read_is_given_up_and_lets_others_go_on() {
    explore("snapshot: take, update two rows", 2, || {
        let rows = Rows::with_images(IMAGE);
        let heads = [rows.enter(HASH, &[(0, 3.0)]), rows.enter(9, &[(0, 7.0)])];
        rows.moment.begin(false);
        let theirs = Arc::clone(&rows);
        let thread = spawn(move || heads.into_iter().for_each(|head| theirs.add_to_all(head, 1.0).unwrap()));
        let mut words = Vec::new();
        rows.moment.take(&mut words);
        let mut seen = read_images(&words);
        thread.join().unwrap();
        let whole = !rows.moment.is_given_up();
        rows.moment.take(&mut words);
        seen.extend(read_images(&words));
        let expected = [(HASH, vec![(0, 3.0)]), (9, vec![(0, 7.0)])];
        assert!(seen == expected || !whole && (seen.is_empty() || seen == expected[..1]), "{whole}: {seen:?}");
        assert_eq!(save(&rows, no_guard()), [], "all rows are in the new phase");
    });
}

#[test]
fn snapshot_images_have_room_for_whole_rows() {
    explore("snapshot: a row of two chunks", 1, || {
        let rows = Rows::with_images(WHOLE);
        let head = rows.enter(HASH, &[(0, 3.0), (1, 4.0)]);
        rows.moment.begin(false);
        rows.add_to_all(head, 1.0).unwrap();
        assert_eq!(save(&rows, no_guard()), [(HASH, vec![(0, 3.0), (1, 4.0)])]);
    });
}
