//! Snapshots beside everything else.

use super::*;
use crate::snapshot::{RowBlock, Source};
use crate::{LiveSnapshot, SnapshotKind};
use std::collections::BTreeMap;

/// A store like [`sparse_store`], with memory for snapshots: room for images of four rows.
fn sparse_store() -> Arc<Store> {
    let table = TableConfig::new("t", CHUNK).chunk(CHUNK).optimizer(SGD);
    let config = StoreConfig::new(ROOMY + 1024).policy(Policy::None).snapshots(true);
    let store = Arc::new(Store::new(config, vec![table]).unwrap());
    admit(&store, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 13]);
    [1, 2, 7, 8].iter().for_each(|&key| assert!(store.remove(t(), key).unwrap()));
    store
}

/// The rows of a snapshot, each of which it has once: the number of each one's updates.
fn read(snapshot: &mut LiveSnapshot) -> BTreeMap<u64, u32> {
    let table = snapshot.manifest().tables[0].clone();
    let (mut rows, mut block) = (BTreeMap::new(), RowBlock::default());
    while snapshot.next(&mut block).unwrap() {
        for row in block.rows(&table) {
            let updates = if row.ordinals.is_empty() { u32::MAX } else { check_row(row.key, row.weights, 99)[0] };
            assert!(rows.insert(row.key, updates).is_none(), "key {} is there twice", row.key);
        }
    }
    rows
}

fn take(store: &Store, kind: SnapshotKind) -> BTreeMap<u64, u32> {
    let mut snapshot = store.snapshot(kind).unwrap();
    let rows = read(&mut snapshot);
    snapshot.commit();
    rows
}

/// The rows that are there now.
fn there(store: &Store) -> BTreeMap<u64, u32> {
    store.iter(t()).unwrap().map(|row| (row.key, check_row(row.key, &row.values, 99)[0])).collect()
}

/// A snapshot that is read while rows are trained, removed, made and moved is of its beginning; an increment after it has
/// what has changed since.
#[test]
fn a_snapshot_beside_everything_is_of_its_beginning() {
    let tally = Tally::default();
    let sums = tally.clone();
    explore("a_snapshot_beside_everything_is_of_its_beginning", move || {
        let store = sparse_store();
        train(&store, &[0, 6]);
        let mut snapshot = store.snapshot(SnapshotKind::Full).unwrap();
        let trainer = spawn(&store, |store| {
            train(store, &[0, 4, 6]);
            train(store, &[6, 5]);
        });
        let others = spawn(&store, |store| {
            assert!(store.remove(t(), 3).unwrap());
            assert_eq!(admit(store, &[7, 3]).admitted, 2);
            assert!(store.remove(t(), 13).unwrap());
        });
        let rounds = spawn(&store, |store| store.prune().unwrap().moved);
        let mut rows = read(&mut snapshot);
        assert_eq!(rows, BTreeMap::from([(0, 1), (3, 0), (4, 0), (5, 0), (6, 1), (13, 0)]));
        trainer.join().unwrap();
        others.join().unwrap();
        let moved = rounds.join().unwrap();
        let stalls = snapshot.stalls();
        snapshot.commit();
        sums.events(&store, moved + stalls);
        for (key, updates) in take(&store, SnapshotKind::Increment) {
            if updates == u32::MAX {
                rows.remove(&key)
            } else {
                rows.insert(key, updates)
            };
        }
        assert_eq!(rows, there(&store), "the snapshot and its increment");
        assert_eq!(take(&store, SnapshotKind::Full), there(&store));
        check_store(&store);
    });
    tally.check(["removed", "", "", "moved, or waited for room"]);
}

/// Two trainers in step with one another, a snapshot begun after some step and read beside the next ones: every row has
/// as many updates as there were steps.
#[test]
fn a_snapshot_is_of_one_step() {
    explore("a_snapshot_is_of_one_step", || {
        let store = sparse_store();
        let barrier = Arc::new(Barrier::new(2));
        let begun: Arc<Mutex<Option<LiveSnapshot>>> = Arc::default();
        let chosen = shuttle::rand::thread_rng().gen_range(0..3);
        let trainers = [true, false].map(|begins| {
            let (barrier, begun) = (Arc::clone(&barrier), Arc::clone(&begun));
            spawn(&store, move |store| {
                for step in 0..3 {
                    if begins && step == chosen {
                        *begun.lock().unwrap() = Some(store.snapshot(SnapshotKind::Full).unwrap());
                    }
                    barrier.wait();
                    train(store, if begins { &[0, 3, 4] } else { &[13, 6, 5] });
                    train(store, if begins { &[13, 4] } else { &[3, 0] });
                    barrier.wait();
                }
            })
        });
        let mut snapshot = loop {
            if let Some(snapshot) = begun.lock().unwrap().take() {
                break snapshot;
            }
            crate::sync::spin_wait(0);
        };
        let clock = |key: u64| if [0, 3, 4, 13].contains(&key) { 2 * chosen } else { chosen };
        let expected: BTreeMap<u64, u32> = [0, 3, 4, 5, 6, 13].map(|key| (key, clock(key))).into();
        assert_eq!(read(&mut snapshot), expected, "after step {chosen}");
        drop(snapshot);
        trainers.into_iter().for_each(|trainer| trainer.join().unwrap());
        check_store(&store);
    });
}
