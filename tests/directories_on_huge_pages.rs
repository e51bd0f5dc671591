//! Directories move to huge pages, in a process of its own: what huge pages the system gave is only told by process.

use dimslab::{Policy, Store, StoreConfig, TableConfig, TableId};
use std::time::{Duration, Instant};

const HUGE_PAGE: usize = 2 << 20;

/// Bytes of this process in huge pages, but for the superblocks that were moved.
fn beside_superblocks(store: &Store) -> u64 {
    let all = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = all.lines().find(|line| line.starts_with("AnonHugePages:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    (kib << 10).saturating_sub(store.stats().moved)
}

/// Whether the system moves what is in memory to huge pages of that size.
fn can_move() -> bool {
    let memory = vec![1u8; 2 * HUGE_PAGE];
    let start = memory.as_ptr().addr().next_multiple_of(HUGE_PAGE);
    // SAFETY: within the memory above, which holds the same bytes afterwards.
    let moved = unsafe { libc::madvise(std::ptr::without_provenance_mut(start), HUGE_PAGE, libc::MADV_COLLAPSE) } == 0;
    std::hint::black_box(&memory);
    moved
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
