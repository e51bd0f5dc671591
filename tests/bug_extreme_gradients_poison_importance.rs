//! A finite gradient whose square overflows once made a table's scale infinite and a utility not a number.

use dimslab::{FiitedConfig, Optimizer, Policy, Store, StoreConfig, TableConfig, TableId};

#[test]
fn a_gradient_beyond_the_root_of_the_largest_float_counts_as_large_and_no_more() {
    for extreme in [1e19f32, 1e20, 3e38] {
        let config = StoreConfig::new(1 << 20).policy(Policy::Fiited(FiitedConfig::default()));
        let table = TableConfig::new("t", 8).optimizer(Optimizer::Sgd { lr: 0.0 });
        let store = Store::new(config, vec![table]).unwrap();
        let t = TableId::new(0);
        // Twice in one batch, so that the sum of the key's gradients overflows too.
        store.apply_gradients(t, &[1, 1, 2], &[extreme; 24]).unwrap();
        store.apply_gradients(t, &[1, 2, 3], &[extreme; 24]).unwrap();
        store.step().unwrap();
        store.prune().unwrap();
        store.validate().unwrap();
        assert_eq!(store.stats().rows, 3, "with gradients of {extreme}");
    }
}
