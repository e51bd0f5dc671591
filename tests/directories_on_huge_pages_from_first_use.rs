//! Directories move to huge pages where rows are on them from the first use, in a process of its own as the default's test is.

mod huge_pages;

use dimslab::{HugePages, Policy, Store, StoreConfig, TableConfig, TableId};
use huge_pages::{bytes_in_huge_pages, can_move};
use std::time::{Duration, Instant};

/// Catches: directories that stay on small pages.
#[test]
fn directories_move_where_rows_are_on_huge_pages_from_the_first_use() {
    if !can_move() {
        return println!("skipped: this system moves nothing to huge pages of 2 MiB");
    }
    let config = StoreConfig::new(512 << 20).policy(Policy::None).huge_pages(HugePages::FirstUse);
    let store = Store::new(config, vec![TableConfig::new("t", 4)]).unwrap();
    let keys: Vec<u64> = (0..1_000_000).collect();
    for keys in keys.chunks(2048) {
        store.apply_gradients(TableId::new(0), keys, &vec![1.0; keys.len() * 4]).unwrap();
    }
    // Those of rows, from the beginning.
    let before = bytes_in_huge_pages();
    let least = store.stats().tables[0].directory / 2;
    assert!(least > 4 << 20, "{least} bytes");
    let begin = Instant::now();
    while bytes_in_huge_pages() < before + least && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let moved = bytes_in_huge_pages().saturating_sub(before);
    assert!(moved >= least, "{moved} of {least} bytes");
    assert_eq!(store.stats().moved, 0, "rows need not be moved");
    store.validate().unwrap();
}
