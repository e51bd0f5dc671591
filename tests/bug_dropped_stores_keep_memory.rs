//! DeepRec #252: every restore of a model leaves memory in the allocator's caches. A dropped store leaves none here.
#![cfg(target_os = "linux")]

use dimslab::{Store, StoreConfig, TableConfig, TableId};

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Makes, fills, prunes and drops a store of 16 MiB; its threads live on.
fn one(seed: u64) {
    let config = StoreConfig::new(16 << 20).seed(seed);
    let store = Store::new(config, vec![TableConfig::new("t", 16)]).unwrap();
    for from in (0..60_000u64).step_by(1000) {
        let keys: Vec<u64> = (from..from + 1000).collect();
        store.apply_gradients(TableId::new(0), &keys, &vec![0.5; keys.len() * 16]).unwrap();
        store.step().unwrap();
    }
    store.prune().unwrap();
    assert!(store.stats().held > 10 << 20);
}

// Catches: a region that stays mapped, records or segments that wait for a thread which uses other stores now.
#[test]
fn stores_that_are_opened_and_dropped_leave_resident_memory_where_it_was() {
    (0..3).for_each(one);
    let before = resident();
    (3..23).for_each(one);
    let after = resident();
    assert!(after < before + (8 << 20), "{} KiB more after 20 stores of 16 MiB", (after - before) >> 10);
}
