//! What a thread retired once stayed in that thread's own list until it had retired 64 things or ended.

use dimslab::{Optimizer, Policy, Store, StoreConfig, TableConfig, TableId};
use std::sync::Barrier;

#[test]
fn memory_retired_by_a_thread_that_idles_comes_back() {
    let config = StoreConfig::new(4 << 20).policy(Policy::None);
    let table = TableConfig::new("t", 16).optimizer(Optimizer::Sgd { lr: 1.0 });
    let store = Store::new(config, vec![table]).unwrap();
    let t = TableId::new(0);
    let (worked, checked) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Enough for the directory to replace segments, and rows to remove.
            let keys: Vec<u64> = (0..2000).collect();
            store.apply_gradients(t, &keys, &vec![1.0; keys.len() * 16]).unwrap();
            for key in 0..20 {
                assert!(store.remove(t, key).unwrap());
            }
            worked.wait();
            // Alive, pinned to nothing, and with nothing to do.
            checked.wait();
        });
        worked.wait();
        store.prune().unwrap();
        let retired = store.stats().retired;
        checked.wait();
        assert_eq!(retired, 0, "bytes that wait for an idle thread");
    });
    store.validate().unwrap();
}
