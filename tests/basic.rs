//! The store's contract, one behaviour a test.

use dimslab::{
    ConfigError, Fallback, FiitedConfig, Init, Keys, Optimizer, Policy, Pooling, Store, StoreConfig, StoreError,
    TableConfig, TableId,
};

const T: fn(usize) -> TableId = TableId::new;
const SGD: Optimizer = Optimizer::Sgd { lr: 1.0 };

fn store(table: TableConfig) -> Store {
    Store::new(StoreConfig::new(8 << 20).policy(Policy::None), vec![table]).unwrap()
}

fn row(store: &Store, key: u64, dim: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; dim];
    store.gather(T(0), &[key], &mut out).unwrap();
    out
}

#[test]
fn gradients_reach_every_dimension_and_duplicates_are_combined() {
    for dim in [1, 3, 4, 5, 16, 17, 100, 1024] {
        for chunk in [4, 8, 16, 32] {
            let store = store(TableConfig::new("t", dim).chunk(chunk).optimizer(SGD));
            let grad: Vec<f32> = (0..dim).map(|d| d as f32 + 1.0).collect();
            store.apply_gradients(T(0), &[7], &grad).unwrap();
            assert_eq!(row(&store, 7, dim), vec![0.0; dim], "the first gradient makes the row");
            let twice = [&grad[..], &grad[..]].concat();
            let applied = store.apply_gradients(T(0), &[7, 7], &twice).unwrap();
            assert_eq!((applied.unique, applied.updated, applied.missed), (1, 1, 0));
            let expected: Vec<f32> = grad.iter().map(|g| -2.0 * g).collect();
            assert_eq!(row(&store, 7, dim), expected);
            assert_eq!(row(&store, 8, dim), vec![0.0; dim]);
            store.validate().unwrap();
        }
    }
}

#[test]
fn every_key_is_legal() {
    let store = store(TableConfig::new("t", 4).optimizer(SGD));
    let keys = [0, 1, u64::MAX, u64::MAX - 1, 1 << 63, 1 << 32, u64::from(u32::MAX)];
    for _ in 0..2 {
        let grads: Vec<f32> = (0..keys.len()).flat_map(|i| [i as f32; 4]).collect();
        store.apply_gradients(T(0), &keys, &grads).unwrap();
    }
    for (i, &key) in keys.iter().enumerate() {
        assert_eq!(row(&store, key, 4), [-(i as f32); 4]);
    }
    let mut listed: Vec<u64> = store.iter(T(0)).unwrap().map(|row| row.key).collect();
    listed.sort_unstable();
    let mut expected = keys.to_vec();
    expected.sort_unstable();
    assert_eq!(listed, expected);
    assert!(store.remove(T(0), u64::MAX).unwrap());
    assert!(!store.remove(T(0), u64::MAX).unwrap());
    assert_eq!(row(&store, u64::MAX, 4), [0.0; 4]);
    store.validate().unwrap();
}

#[test]
fn pooling_sums_means_and_sends_gradients_back() {
    let store = store(TableConfig::new("t", 2).optimizer(SGD));
    for _ in 0..2 {
        store.apply_gradients(T(0), &[1, 2, 3], &[-1.0, 0.0, -2.0, 0.0, -4.0, 8.0]).unwrap();
    }
    let (keys, offsets) = ([1, 2, 3, 3], [0, 2, 2, 4]);
    let mut out = [9f32; 6];
    store.gather_pooled(T(0), &keys, &offsets, Pooling::Sum, &mut out).unwrap();
    assert_eq!(out, [3.0, 0.0, 0.0, 0.0, 8.0, -16.0]);
    store.gather_pooled(T(0), &keys, &offsets, Pooling::Mean, &mut out).unwrap();
    assert_eq!(out, [1.5, 0.0, 0.0, 0.0, 4.0, -8.0]);
    store.apply_pooled_gradients(T(0), &keys, &offsets, Pooling::Mean, &[2.0, 0.0, 99.0, 99.0, 1.0, 1.0]).unwrap();
    assert_eq!(row(&store, 1, 2), [0.0, 0.0]);
    assert_eq!(row(&store, 3, 2), [3.0, -9.0]);
}

#[test]
fn optimizers_follow_their_formulas() {
    let grads = [0.5f32, -0.25, 2.0];
    for optimizer in [
        SGD,
        Optimizer::Adagrad { lr: 0.1, eps: 1e-8, initial_accumulator: 0.5 },
        Optimizer::RowwiseAdagrad { lr: 0.1, eps: 1e-8, initial_accumulator: 0.5 },
        Optimizer::Adam { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8 },
    ] {
        let dim = 6;
        let store = store(TableConfig::new("t", dim).optimizer(optimizer));
        store.apply_gradients(T(0), &[5], &vec![1.0; dim]).unwrap();
        let (mut w, mut a, mut m) = (0f64, 0f64, 0f64);
        if matches!(optimizer, Optimizer::Adagrad { .. } | Optimizer::RowwiseAdagrad { .. }) {
            a = 0.5;
        }
        for (t, &g) in (1..).zip(&grads) {
            store.apply_gradients(T(0), &[5], &vec![g; dim]).unwrap();
            let g = f64::from(g);
            match optimizer {
                Optimizer::Sgd { lr } => w -= f64::from(lr) * g,
                Optimizer::Adagrad { lr, eps, .. } | Optimizer::RowwiseAdagrad { lr, eps, .. } => {
                    a += g * g;
                    w -= f64::from(lr) * g / (a.sqrt() + f64::from(eps));
                }
                Optimizer::Adam { lr, beta1, beta2, eps } => {
                    let (beta1, beta2) = (f64::from(beta1), f64::from(beta2));
                    m = beta1 * m + (1.0 - beta1) * g;
                    a = beta2 * a + (1.0 - beta2) * g * g;
                    let (m, a) = (m / (1.0 - beta1.powi(t)), a / (1.0 - beta2.powi(t)));
                    w -= f64::from(lr) * m / (a.sqrt() + f64::from(eps));
                }
            }
            for value in row(&store, 5, dim) {
                assert!((f64::from(value) - w).abs() < 1e-5, "{optimizer:?} step {t}: {value} for {w}");
            }
        }
    }
}

#[test]
fn fallbacks_stand_in_and_learn() {
    let policy = Policy::Fiited(FiitedConfig::default());
    for (fallback, shared) in
        [(Fallback::DefaultVector, true), (Fallback::HashedRow { rows: 1 }, true), (Fallback::Zero, false)]
    {
        let config = StoreConfig::new(8 << 20).policy(policy).deterministic(true);
        let store = Store::new(config, vec![TableConfig::new("t", 4).optimizer(SGD).fallback(fallback)]).unwrap();
        store.apply_gradients(T(0), &[1, 2], &[1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]).unwrap();
        let expected = if shared { [-1.0, -1.0, 0.0, 0.0] } else { [0.0; 4] };
        assert_eq!(row(&store, 1, 4), expected);
        assert_eq!(row(&store, 99, 4), expected, "a key never seen reads the same");
        store.step().unwrap();
        assert_eq!(row(&store, 1, 4), expected, "a new chunk reads as its dimensions did before");
        store.apply_gradients(T(0), &[1], &[1.0, 0.0, 0.0, 0.0]).unwrap();
        assert_eq!(row(&store, 1, 4), [expected[0] - 1.0, expected[1], 0.0, 0.0]);
        assert_eq!(row(&store, 99, 4), expected, "a row with chunks trains itself alone");
        store.validate().unwrap();
    }
}

#[test]
fn uniform_init_depends_on_the_key_alone() {
    let table = || TableConfig::new("t", 40).chunk(8).optimizer(SGD).init(Init::Uniform { bound: 0.5 });
    let (one, other) = (store(table()), store(table()));
    one.apply_gradients(T(0), &[1, 2], &[0.0; 80]).unwrap();
    one.apply_gradients(T(0), &[1, 2], &[1e-20; 80]).unwrap();
    other.apply_gradients(T(0), &[2], &[1e-20; 40]).unwrap();
    let values = row(&one, 2, 40);
    assert_eq!(values, row(&other, 2, 40));
    assert_ne!(values, row(&one, 1, 40));
    assert!(values.iter().all(|value| value.abs() <= 0.5) && values.iter().any(|value| value.abs() > 0.3));
}

#[test]
fn hashed_keys_share_virtual_rows() {
    let store = store(TableConfig::new("t", 4).optimizer(SGD).keys(Keys::Hashed { virtual_rows: 10 }));
    let keys: Vec<u64> = (0..1000).collect();
    for _ in 0..2 {
        store.apply_gradients(T(0), &keys, &vec![1.0; 4000]).unwrap();
    }
    assert_eq!(store.stats().rows, 10);
    assert!(store.iter(T(0)).unwrap().all(|row| row.key < 10));
    let total: f32 = store.iter(T(0)).unwrap().map(|row| row.values[0]).sum();
    assert_eq!(total, -1000.0);
    store.validate().unwrap();
}

#[test]
fn wrong_calls_are_typed_errors_and_change_nothing() {
    let store = store(TableConfig::new("t", 4).optimizer(SGD));
    let mut out = [1f32; 8];
    assert!(matches!(store.gather(T(1), &[1], &mut out), Err(StoreError::UnknownTable { tables: 1, .. })));
    assert!(matches!(store.gather(T(0), &[1], &mut out), Err(StoreError::Length { found: 8, expected: 4, .. })));
    for offsets in [&[][..], &[1, 2], &[0, 3, 2], &[0, 1], &[0, 3]] {
        let error = store.gather_pooled(T(0), &[1, 2], offsets, Pooling::Sum, &mut out).unwrap_err();
        assert!(matches!(error, StoreError::Offsets { .. }), "{offsets:?}: {error}");
    }
    assert_eq!(out, [1f32; 8]);
    for bad in [f32::NAN, f32::INFINITY] {
        let error = store.apply_gradients(T(0), &[1, 2], &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, bad, 0.0]).unwrap_err();
        assert!(matches!(error, StoreError::NotFinite { key: 2, dimension: 2, .. }), "{error}");
    }
    assert_eq!(store.stats().rows, 0);
    assert!(store.set_learning_rate(T(0), f32::NAN).is_err());
    store.gather(T(0), &[], &mut []).unwrap();
    store.apply_gradients(T(0), &[], &[]).unwrap();
}

#[test]
fn impossible_configurations_are_typed_errors() {
    let tables = |count: usize| (0..count).map(|i| TableConfig::new(format!("t{i}"), 16)).collect::<Vec<_>>();
    assert!(matches!(Store::new(StoreConfig::new(1 << 20), vec![]), Err(ConfigError::NoTables)));
    let small = Store::new(StoreConfig::new(10_000), tables(26));
    let Err(ConfigError::BudgetTooSmall { needed, .. }) = small else { panic!("accepted") };
    let store = Store::new(StoreConfig::new(needed * 2).policy(Policy::None), tables(26)).unwrap();
    for table in 0..26 {
        store.apply_gradients(T(table), &[1], &[1.0; 16]).unwrap();
    }
    let twins = vec![TableConfig::new("a", 4), TableConfig::new("a", 4)];
    assert!(matches!(Store::new(StoreConfig::new(1 << 20), twins), Err(ConfigError::DuplicateTable { .. })));
    for bad in [
        TableConfig::new("t", 0),
        TableConfig::new("t", 1025),
        TableConfig::new("t", 4).chunk(5),
        TableConfig::new("t", 4).init(Init::Uniform { bound: f32::NAN }),
        TableConfig::new("t", 4).fallback(Fallback::HashedRow { rows: 0 }),
        TableConfig::new("t", 4).keys(Keys::Hashed { virtual_rows: 0 }),
        TableConfig::new("t", 4).optimizer(Optimizer::Sgd { lr: f32::INFINITY }),
    ] {
        assert!(matches!(Store::new(StoreConfig::new(1 << 20), vec![bad]), Err(ConfigError::Table { .. })));
    }
    let absurd = TableConfig::new("t", 4).fallback(Fallback::HashedRow { rows: usize::MAX });
    assert!(matches!(Store::new(StoreConfig::new(1 << 20), vec![absurd]), Err(ConfigError::BudgetTooSmall { .. })));
}

#[test]
fn a_full_budget_without_a_policy_is_an_error_that_loses_nothing() {
    let config = StoreConfig::new(1 << 20).policy(Policy::None);
    let store = Store::new(config, vec![TableConfig::new("t", 16).optimizer(SGD)]).unwrap();
    let mut refused_at = None;
    for key in 0..100_000 {
        match store.apply_gradients(T(0), &[key, 0], &[1.0; 32]) {
            Ok(_) => {}
            Err(StoreError::BudgetExhausted { limit, held, .. }) => {
                assert!(limit == 1 << 20 && held <= limit);
                refused_at = Some(key);
                break;
            }
            Err(other) => panic!("{other}"),
        }
    }
    let rows = refused_at.expect("a megabyte is full before a hundred thousand rows");
    assert!(rows > 3000, "{rows}");
    assert_eq!(row(&store, 0, 16)[0], -(rows as f32), "the other key of the refused batch was trained");
    store.validate().unwrap();
}

#[test]
fn under_the_policy_the_budget_holds_and_the_important_stay() {
    for deterministic in [true, false] {
        let budget = 1 << 20;
        let config = StoreConfig::new(budget).deterministic(deterministic);
        let tables = vec![TableConfig::new("a", 16).optimizer(SGD), TableConfig::new("b", 8).chunk(8)];
        let store = Store::new(config, tables).unwrap();
        let hot: Vec<u64> = (0..200).collect();
        for step in 0..400u64 {
            let cold: Vec<u64> = (0..300).map(|i| 1000 + step * 300 + i).collect();
            let keys = [&hot[..], &cold[..]].concat();
            store.apply_gradients(T(0), &keys, &vec![0.01; keys.len() * 16]).unwrap();
            store.apply_gradients(T(1), &keys, &vec![0.02; keys.len() * 8]).unwrap();
            store.step().unwrap();
            let stats = store.stats();
            assert!(stats.held <= budget && stats.peak <= budget);
        }
        store.validate().unwrap();
        store.prune().unwrap();
        store.validate().unwrap();
        let stats = store.stats();
        let events = stats.events;
        assert!(events.evicted > 1000 && events.grown > 100, "{events:?}");
        for table in [0, 1] {
            let kept = store.iter(T(table)).unwrap().filter(|row| row.key < 200).count();
            assert_eq!(kept, 200, "hot rows of table {table}, deterministic: {deterministic}");
        }
        assert!(stats.resident <= stats.held && stats.held > budget / 2, "{stats:?}");
    }
}

#[test]
fn deterministic_stores_repeat_themselves() {
    let run = || {
        let config = StoreConfig::new(1 << 20).deterministic(true);
        let tables = (0..4).map(|i| TableConfig::new(format!("t{i}"), 16)).collect();
        let store = Store::new(config, tables).unwrap();
        for step in 0..300u64 {
            std::thread::scope(|scope| {
                for table in 0..4usize {
                    let store = &store;
                    scope.spawn(move || {
                        let keys: Vec<u64> =
                            (0..200).map(|i| (step * 131 + i * i * 7 + table as u64) % (50 + step * 40)).collect();
                        let grads: Vec<f32> =
                            (0..200 * 16).map(|i| ((i * 37 + step as usize * 11) % 19) as f32 * 0.01 - 0.09).collect();
                        store.apply_gradients(T(table), &keys, &grads).unwrap();
                    });
                }
            });
            store.step().unwrap();
        }
        store.validate().unwrap();
        let mut rows: Vec<_> = (0..4)
            .flat_map(|table| {
                store.iter(T(table)).unwrap().map(move |row| {
                    (table, row.key, row.live, row.values.iter().map(|v| v.to_bits()).collect::<Vec<_>>())
                })
            })
            .collect();
        rows.sort();
        let stats = store.stats();
        assert!(stats.events.evicted > 0 && stats.events.shrunk > 0, "{:?}", stats.events);
        (rows, stats.events, stats.held, stats.peak)
    };
    let (first, second) = (run(), run());
    assert!(first == second);
}

#[test]
fn rows_without_gradient_at_first_do_not_poison_importance() {
    let config = StoreConfig::new(1 << 20).deterministic(true);
    let store = Store::new(config, vec![TableConfig::new("t", 16).optimizer(SGD)]).unwrap();
    let idle: Vec<u64> = (1_000_000..1_000_500).collect();
    store.apply_gradients(T(0), &idle, &vec![0.0; idle.len() * 16]).unwrap();
    store.step().unwrap();
    let hot: Vec<u64> = (0..100).collect();
    for step in 0..300u64 {
        let cold: Vec<u64> = (0..300).map(|i| 1000 + step * 300 + i).collect();
        let keys = [&hot[..], &cold[..]].concat();
        store.apply_gradients(T(0), &keys, &vec![0.01; keys.len() * 16]).unwrap();
        store.step().unwrap();
    }
    let kept = |keys: &[u64]| store.iter(T(0)).unwrap().filter(|row| keys.contains(&row.key)).count();
    assert_eq!((kept(&hot), kept(&idle)), (100, 0));
    let stats = store.stats();
    assert!(
        stats.threshold > 1e-4 && stats.threshold < 1e4,
        "importance is of the order of 1, not {}",
        stats.threshold
    );
    assert!(stats.events.admitted < 15_000, "{:?}", stats.events);
    store.validate().unwrap();
}
