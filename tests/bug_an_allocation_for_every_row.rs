//! FBGEMM #4154: memory for every row is asked of the general allocator, one row at a time. Here rows are records of a
//! slab, and only directory segments and a call's scratch are on the heap.

mod counting;

use counting::ALLOCATIONS;
use dimslab::{Optimizer, Policy, Store, StoreConfig, TableConfig, TableId};
use std::sync::atomic::Ordering;

// Catches: an allocation for each row made, trained or read, and more than a removal by hand has today.
#[test]
fn rows_are_made_trained_and_read_without_an_allocation_each() {
    let table = TableConfig::new("t", 16).optimizer(Optimizer::Sgd { lr: 1.0 });
    let store = Store::new(StoreConfig::new(16 << 20).policy(Policy::None), vec![table]).unwrap();
    let t = TableId::new(0);
    let keys: Vec<u64> = (0..40_000).collect();
    let grads = vec![1.0; keys.len() * 16];
    let mut out = vec![0.0; keys.len() * 16];
    // Scratch, and this thread's registration.
    store.apply_gradients(t, &keys[..20_000], &grads[..20_000 * 16]).unwrap();
    let counted = |what: &str, most: u64, work: &mut dyn FnMut()| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        work();
        let count = ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert!(count <= most, "{count} allocations to {what}");
    };
    counted("make 20,000 rows", 4_000, &mut || {
        store.apply_gradients(t, &keys[20_000..], &grads[20_000 * 16..]).unwrap();
    });
    counted("train 40,000 rows", 100, &mut || {
        store.apply_gradients(t, &keys, &grads).unwrap();
    });
    counted("read 40,000 rows", 10, &mut || store.gather(t, &keys, &mut out).unwrap());
    // A removal by hand is a call of its own, with three: a list of what it retired and places in the collector's queue.
    counted("remove 1,000 rows", 3_100, &mut || {
        keys[..1000].iter().for_each(|&key| assert!(store.remove(t, key).unwrap()));
    });
    store.validate().unwrap();
}
