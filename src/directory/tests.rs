use super::*;
use crossbeam_epoch::Collector;
use std::collections::HashMap;

/// A bijection of 32 bits, so that tags are spread and distinct.
fn tag(key: u32) -> u32 {
    let mixed = (key ^ key >> 16).wrapping_mul(0x7FEB_352D);
    let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x846C_A68B);
    mixed ^ mixed >> 16
}

fn index(key: u32) -> ChunkIndex {
    ChunkIndex::from_raw(key + 1).unwrap()
}

fn probe(key: u32) -> impl Fn(ChunkIndex) -> Probe {
    move |found| if found == index(key) { Probe::Found } else { Probe::Other }
}

fn directory() -> (Arc<Budget>, Directory) {
    let budget = Arc::new(Budget::new(1 << 30));
    (Arc::clone(&budget), Directory::new(budget).unwrap())
}

/// Runs what was retired; nobody is pinned. A flush runs only a few lists of it.
fn drain(handle: &crossbeam_epoch::LocalHandle, budget: &Budget) {
    for _ in 0..100_000 {
        if budget.awaiting() == 0 {
            return;
        }
        handle.pin().flush();
    }
}

#[test]
fn grows_finds_removes_and_stays_dense() {
    let (budget, directory) = directory();
    let handle = Collector::new().register();
    let rows = 200_000;
    for key in 0..rows {
        let guard = &handle.pin();
        assert_eq!(directory.insert(tag(key), index(key), guard, probe(key)).unwrap(), Inserted::Done);
        assert_eq!(directory.insert(tag(key), index(key), guard, probe(key)).unwrap(), Inserted::Exists(index(key)));
        let per_row = directory.bytes() as f64 / f64::from(key + 1);
        assert!(key < 20_000 || per_row < 11.6, "{per_row} bytes a row at {key} rows");
    }
    drain(&handle, &budget);
    assert_eq!(budget.held(), directory.bytes());
    let guard = &handle.pin();
    for key in 0..rows {
        assert_eq!(directory.find(tag(key), guard, probe(key)), Some(index(key)));
        assert_eq!(directory.find(tag(key + rows), guard, probe(key + rows)), None);
    }
    for key in (0..rows).filter(|key| key % 10 != 0) {
        assert!(directory.remove(tag(key), index(key), guard));
        assert!(!directory.remove(tag(key), index(key), guard));
    }
    let mut next = Some(0);
    while let Some(at) = next {
        directory.tidy(at, guard).unwrap();
        next = directory.walk(at, guard, |_, _| ());
    }
    for key in 0..rows {
        assert_eq!(directory.find(tag(key), guard, probe(key)).is_some(), key % 10 == 0);
    }
    let sparse = directory.bytes() as f64 / f64::from(rows / 10);
    assert!(sparse < 16.0, "{sparse} bytes a row after removing nine of ten");
}

#[test]
fn every_small_size_is_dense_enough() {
    for rows in [1u32, 7, 9, 40, 300, 460, 1000, 3000] {
        let (_, directory) = directory();
        let handle = Collector::new().register();
        for key in 0..rows {
            directory.insert(tag(key), index(key), &handle.pin(), probe(key)).unwrap();
        }
        let beyond_the_root = directory.bytes() - ROOT_BYTES;
        assert!(beyond_the_root <= 256 + u64::from(rows) * 14, "{beyond_the_root} bytes for {rows} rows");
    }
}

#[test]
fn a_walk_sees_every_row_once_when_nothing_moves() {
    let (_, directory) = directory();
    let handle = Collector::new().register();
    let guard = &handle.pin();
    for key in 0..50_000 {
        directory.insert(tag(key), index(key), guard, probe(key)).unwrap();
    }
    let mut seen = HashMap::new();
    let mut next = Some(0);
    while let Some(at) = next {
        next = directory.walk(at, guard, |tag, index| *seen.entry(index).or_insert((tag, 0)) = (tag, 1));
    }
    assert_eq!(seen.len(), 50_000);
    assert!(seen.iter().all(|(index, &(found, _))| found == tag(index.raw() - 1)));
}

/// The thread that split a segment may not have come to its slots when another one retires the lower half.
#[test]
fn no_slot_leads_through_a_retired_lower_half() {
    let (budget, directory) = directory();
    let handle = Collector::new().register();
    let guard = &handle.pin();
    let mut keys = 0..;
    let root = loop {
        let root = directory.segment(0, guard);
        if root.words().count() == 360 {
            break root;
        }
        let key = keys.next().unwrap();
        directory.insert(tag(key), index(key), guard, probe(key)).unwrap();
    };
    assert_eq!(root.depth(), 0);
    // What `replace` does, up to where it settles.
    let bytes = root.replace(guard).unwrap();
    budget.reserve(bytes).unwrap();
    directory.bytes.fetch_add(bytes, Ordering::Relaxed);
    let lower = directory.segment(0, guard);
    assert_eq!(lower.depth(), 1);
    for key in keys.filter(|&key| tag(key) >> 31 == 0) {
        if lower.replacement(0, guard).is_some() {
            break;
        }
        directory.insert(tag(key), index(key), guard, probe(key)).unwrap();
    }
    // The lower half is retired now. A thread that pins from here on must not come to it, on its way to either half.
    for slot in 0..64 {
        let there = directory.place(slot << 26, guard).there;
        assert!(
            !std::ptr::eq(allocation::start(there), (&raw const *root).cast()),
            "slot {slot} leads through the retired lower half"
        );
    }
    directory.settle(root, &mut 0, guard);
}

#[test]
fn only_rows_of_the_tag_are_asked_about() {
    let (_, directory) = directory();
    let handle = Collector::new().register();
    let guard = &handle.pin();
    // Fewer than fill the segment's one bucket, all of which have the same slots on their way.
    for tag in 0..5 {
        directory.insert(tag, index(tag), guard, |_| Probe::Other).unwrap();
    }
    let asked =
        |wanted| move |found| if found == index(wanted) { Probe::Found } else { panic!("{found:?} for {wanted}") };
    for tag in 0..5 {
        assert_eq!(directory.find(tag, guard, asked(tag)), Some(index(tag)));
        assert_eq!(directory.insert(tag, index(9), guard, asked(tag)), Ok(Inserted::Exists(index(tag))));
        assert!(!directory.remove(tag + 8, index(tag), guard), "an index under a tag that is not its own");
    }
}

#[test]
fn relocation_changes_the_head() {
    let (_, directory) = directory();
    let handle = Collector::new().register();
    let guard = &handle.pin();
    directory.insert(tag(1), index(1), guard, probe(1)).unwrap();
    assert!(directory.relocate(tag(1), index(1), index(77), guard));
    assert!(!directory.relocate(tag(1), index(1), index(78), guard));
    assert_eq!(directory.find(tag(1), guard, probe(77)), Some(index(77)));
}

#[test]
fn all_tags_equal_still_works() {
    let (_, directory) = directory();
    let handle = Collector::new().register();
    let guard = &handle.pin();
    for key in 0..3000 {
        directory.insert(0xABCD_0123, index(key), guard, probe(key)).unwrap();
    }
    assert!((0..3000).all(|key| directory.find(0xABCD_0123, guard, probe(key)) == Some(index(key))));
}

#[test]
fn a_refusal_changes_nothing() {
    let budget = Arc::new(Budget::new(8 << 10));
    let directory = Directory::new(Arc::clone(&budget)).unwrap();
    let handle = Collector::new().register();
    let inserted = (0..10_000)
        .take_while(|&key| directory.insert(tag(key), index(key), &handle.pin(), probe(key)).is_ok())
        .count() as u32;
    assert!(inserted > 100 && inserted < 1000, "{inserted}");
    let guard = &handle.pin();
    assert!((0..inserted).all(|key| directory.find(tag(key), guard, probe(key)).is_some()));
    assert!((0..inserted).all(|key| directory.remove(tag(key), index(key), guard)));
    drop(directory);
}

#[test]
fn threads_insert_and_remove_without_loss_or_duplicates() {
    let (budget, directory) = directory();
    let collector = Collector::new();
    let wins = AtomicU64::new(0);
    let keys = 20_000u32;
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let (directory, collector, wins) = (&directory, &collector, &wins);
            scope.spawn(move || {
                let handle = collector.register();
                for step in 0..keys {
                    // All threads race for the same keys, each with an index of its own.
                    let key = step;
                    let mine = ChunkIndex::from_raw(key * 4 + thread + 1).unwrap();
                    let same = |found: ChunkIndex| {
                        if (found.raw() - 1) / 4 == key { Probe::Found } else { Probe::Other }
                    };
                    let guard = &handle.pin();
                    if directory.insert(tag(key), mine, guard, same).unwrap() == Inserted::Done {
                        wins.fetch_add(1, Ordering::Relaxed);
                        assert_eq!(directory.find(tag(key), guard, same), Some(mine));
                        if key % 3 == 0 {
                            assert!(directory.remove(tag(key), mine, guard));
                            wins.fetch_sub(1, Ordering::Relaxed);
                            // Only one more thread may come after us; leave the key out for the count below.
                        }
                    }
                }
            });
        }
    });
    let handle = collector.register();
    let guard = handle.pin();
    let mut rows = 0;
    let mut next = Some(0);
    while let Some(at) = next {
        next = directory.walk(at, &guard, |_, _| rows += 1);
    }
    assert_eq!(rows, wins.load(Ordering::Relaxed));
    for key in (0..keys).filter(|key| key % 3 != 0) {
        let mut found = 0;
        directory.find(tag(key), &guard, |other| {
            found += u32::from((other.raw() - 1) / 4 == key);
            Probe::Other
        });
        assert_eq!(found, 1, "key {key}");
    }
    drop(guard);
    drop(directory);
    drain(&handle, &budget);
    assert_eq!(budget.held(), 0);
}

/// The stages one by one, as a batch goes through them.
fn candidate(directory: &Directory, tag: u32, guard: &Guard) -> Option<ChunkIndex> {
    let search = directory.search(guard);
    search.approach(search.set_out(tag), tag).through_all_stages(tag, guard)
}

#[test]
fn the_stages_find_what_a_look_up_finds() {
    let (_, directory) = directory();
    let handle = Collector::new().register();
    let guard = &handle.pin();
    let rows = 100_000;
    for key in 0..rows {
        directory.insert(tag(key), index(key), guard, probe(key)).unwrap();
    }
    for key in (0..rows).step_by(3) {
        assert!(directory.remove(tag(key), index(key), guard));
    }
    for key in 0..rows {
        let row = (key % 3 != 0).then(|| index(key));
        assert_eq!(candidate(&directory, tag(key), guard), row);
        assert_eq!(candidate(&directory, tag(key + rows), guard), None);
    }
}

#[test]
fn a_tombstone_is_no_row_of_the_tag_that_looks_like_it() {
    let (_, directory) = directory();
    let handle = Collector::new().register();
    let guard = &handle.pin();
    let tag = (TOMBSTONE >> 32) as u32;
    for key in 0..3 {
        directory.insert(tag, index(key), guard, probe(key)).unwrap();
    }
    assert!(directory.remove(tag, index(0), guard));
    assert_eq!(candidate(&directory, tag, guard), Some(index(1)));
    assert!(directory.remove(tag, index(1), guard));
    assert!(directory.remove(tag, index(2), guard));
    assert_eq!(candidate(&directory, tag, guard), None);
}
