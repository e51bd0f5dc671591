//! Directories move to huge pages, in a process of its own: what huge pages the system gave is only told by process.

mod huge_pages;

use dimslab::{Policy, Store, StoreConfig, TableConfig, TableId};
use huge_pages::{bytes_in_huge_pages, can_move};
use std::time::{Duration, Instant};

/// Bytes of this process in huge pages, but for the superblocks that were moved.
fn beside_superblocks(store: &Store) -> u64 {
    bytes_in_huge_pages().saturating_sub(store.stats().moved)
}

/// Catches: directories that stay on small pages.
#[test]
fn directories_move_when_growth_has_gone_by() {
    if !can_move() {
        return println!("skipped: this system moves nothing to huge pages of 2 MiB");
    }
    let config = StoreConfig::new(512 << 20).policy(Policy::None);
    let store = Store::new(config, vec![TableConfig::new("t", 4)]).unwrap();
    let keys: Vec<u64> = (0..1_000_000).collect();
    for keys in keys.chunks(2048) {
        store.apply_gradients(TableId::new(0), keys, &vec![1.0; keys.len() * 4]).unwrap();
    }
    // What lies at both ends of a heap is not wholly in memory, or not the directory's.
    let least = store.stats().tables[0].directory / 2;
    assert!(least > 4 << 20, "{least} bytes");
    let begin = Instant::now();
    while beside_superblocks(&store) < least && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(beside_superblocks(&store) >= least, "{} of {least} bytes", beside_superblocks(&store));
    store.validate().unwrap();
}
