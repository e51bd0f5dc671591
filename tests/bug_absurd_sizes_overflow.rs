//! Sizes near the end of 64 bits once overflowed in the sum of what a store needs.

use dimslab::{ConfigError, Fallback, Optimizer, Policy, Store, StoreConfig, TableConfig};

#[test]
fn shared_rows_that_almost_fill_the_address_space_are_a_typed_error() {
    for spare in [0u64, 1 << 10, 100_000, 1 << 20, 1 << 40, 1 << 61, 1 << 62, 1 << 63] {
        let rows = ((u64::MAX - spare) / 20) as usize;
        let table = |name: &str| {
            TableConfig::new(name, 4).optimizer(Optimizer::Sgd { lr: 1.0 }).fallback(Fallback::HashedRow { rows })
        };
        for tables in [vec![table("a")], vec![table("a"), table("b")], vec![table("a"), table("b"), table("c")]] {
            let made = Store::new(StoreConfig::new(1 << 20), tables);
            assert!(matches!(made, Err(ConfigError::BudgetTooSmall { .. })), "{spare}");
        }
    }
}

#[test]
fn budgets_near_the_end_of_64_bits_are_an_error_or_work() {
    for budget in [u64::MAX, u64::MAX - 1, u64::MAX / 2, 1 << 60, 0, 1] {
        for policy in [Policy::None, Policy::Fiited(Default::default())] {
            for fallback in [Fallback::Zero, Fallback::HashedRow { rows: usize::MAX }] {
                let table = TableConfig::new("t", 4).fallback(fallback);
                // Only that it returns: whether the system can reserve so much is its own affair.
                let _ = Store::new(StoreConfig::new(budget).policy(policy), vec![table]);
            }
        }
    }
}
