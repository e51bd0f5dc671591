use super::*;
use crate::budget::Budget;
use crossbeam_epoch::Collector;
use std::collections::HashSet;

fn slab(superblocks: u32, record_words: usize) -> (Arc<Budget>, Slab) {
    let budget = Arc::new(Budget::new(1 << 30));
    let pool = Superblocks::new(superblocks, 16 << 10, Arc::clone(&budget)).unwrap();
    (budget, Slab::new(0, record_words, Arc::new(pool)))
}

fn drain(handle: &crossbeam_epoch::LocalHandle) {
    for _ in 0..8 {
        handle.pin().flush();
    }
}

#[test]
fn every_slot_is_handed_out_once_and_comes_back() {
    let (budget, slab) = slab(3, 10);
    let handle = Collector::new().register();
    let mut magazine = Magazine::default();
    let mut seen = HashSet::new();
    loop {
        match slab.alloc(&mut magazine, &handle.pin()) {
            Ok(index) => assert!(slab.contains(index) && seen.insert(index)),
            Err(error) => {
                assert_eq!(error, AllocError::IndexSpace);
                break;
            }
        }
    }
    assert_eq!(seen.len() as u32, 3 * slab.slots());
    assert_eq!(budget.held(), 3 * (16 << 10));
    for &index in &seen {
        slab.free(index);
    }
    for superblock in 1..=3 {
        assert!(slab.retire_superblock(superblock, &handle.pin()));
    }
    drain(&handle);
    assert_eq!(budget.held(), 0);
    assert!(slab.alloc(&mut magazine, &handle.pin()).is_ok(), "superblocks can be taken again");
}

#[test]
fn a_superblock_in_use_is_not_retired() {
    let (budget, slab) = slab(1, 6);
    let handle = Collector::new().register();
    let mut magazine = Magazine::default();
    let kept = slab.alloc(&mut magazine, &handle.pin()).unwrap();
    slab.flush(&mut magazine);
    assert!(!slab.retire_superblock(1, &handle.pin()));
    assert_eq!(slab.occupancy().collect::<Vec<_>>(), [(1, slab.slots() - 1)]);
    slab.free(kept);
    assert!(slab.retire_superblock(1, &handle.pin()));
    drain(&handle);
    assert_eq!(budget.held(), 0);
}

#[test]
fn low_superblocks_fill_first_and_emptying_ones_are_left_alone() {
    let (_, slab) = slab(2, 100);
    let handle = Collector::new().register();
    let mut magazine = Magazine::default();
    let first: Vec<_> = (0..slab.slots()).map(|_| slab.alloc(&mut magazine, &handle.pin()).unwrap()).collect();
    let second = slab.alloc(&mut magazine, &handle.pin()).unwrap();
    slab.flush(&mut magazine);
    assert_eq!(slab.superblock_of(second), 2);
    slab.free(first[3]);
    assert_eq!(slab.alloc(&mut magazine, &handle.pin()).unwrap(), first[3]);
    slab.start_evacuating(1);
    slab.free(first[3]);
    assert_eq!(slab.superblock_of(slab.alloc(&mut magazine, &handle.pin()).unwrap()), 2);
    slab.stop_evacuating(1);
    slab.flush(&mut magazine);
    assert_eq!(slab.alloc(&mut magazine, &handle.pin()).unwrap(), first[3]);
}

#[test]
fn superblocks_whose_slots_are_freed_at_once_are_all_found() {
    let (_, slab) = slab(3, 100);
    let handle = Collector::new().register();
    let mut magazine = Magazine::default();
    let all: Vec<_> = (0..3 * slab.slots()).map(|_| slab.alloc(&mut magazine, &handle.pin()).unwrap()).collect();
    assert!(slab.alloc_existing(&mut magazine, &handle.pin()).is_none());
    let of_each: Vec<_> = all.into_iter().step_by(slab.slots() as usize).collect();
    slab.free_all(of_each.iter());
    let found: Vec<_> = std::iter::from_fn(|| slab.alloc_existing(&mut magazine, &handle.pin())).collect();
    assert_eq!(found, of_each);
}

#[test]
fn threads_share_without_loss() {
    let (_, slab) = slab(8, 12);
    let collector = Collector::new();
    std::thread::scope(|scope| {
        for seed in 0..4u32 {
            let (slab, collector) = (&slab, &collector);
            scope.spawn(move || {
                let handle = collector.register();
                let (mut magazine, mut mine, mut random) = (Magazine::default(), Vec::new(), seed + 1);
                for round in 0..20_000u32 {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    if (random >> 16) % 3 != 0 && mine.len() < 500 {
                        let index = slab.alloc(&mut magazine, &handle.pin()).unwrap();
                        slab.record(index)[0].store(round ^ seed << 24, Ordering::Relaxed);
                        mine.push((index, round ^ seed << 24));
                    } else if let Some((index, stamp)) = mine.pop() {
                        assert_eq!(slab.record(index)[0].load(Ordering::Relaxed), stamp);
                        slab.free(index);
                    }
                }
                mine.drain(..).for_each(|(index, _)| slab.free(index));
                slab.flush(&mut magazine);
            });
        }
    });
    assert!(slab.occupancy().all(|(_, free)| free == slab.slots()));
}
