//! The system says no: address space, giving memory back, telling what is resident; and indices that run out.

use super::scene::gradients;
use super::*;
use crate::store::Inner;
use crate::{ConfigError, Optimizer, Policy, Store, StoreConfig, StoreError, TableConfig};
use std::sync::Arc;
use std::thread::current;

#[test]
fn an_address_range_that_is_refused_is_a_typed_error_that_says_what_to_do() {
    let _trap = arm(current().id(), Point::Reserve, 0, Action::Fail);
    let made = Store::new(StoreConfig::new(3 << 20), vec![TableConfig::new("t", 4)]);
    let Err(error @ ConfigError::Reserve { .. }) = made else { panic!("made, or failed otherwise") };
    let text = error.to_string();
    assert!(text.contains("injected") && text.contains("lower the budget"), "{text}");
}

/// Pages that are locked, by `mlockall` say, cannot be given back.
#[test]
fn superblocks_the_system_does_not_take_back_stay_counted_and_are_used_again() {
    let scene = Scene::new(Kind::Sparse);
    let before = scene.store.stats();
    assert_eq!(before.kept, 0);
    let trap = arm(current().id(), Point::Decommit, 0, Action::Fail);
    scene.store.prune().unwrap();
    assert!(trap.reached());
    scene.store.validate().unwrap();
    let kept = scene.store.stats();
    assert!(kept.kept > before.active / 4, "{kept:?}");
    assert_eq!((kept.active, kept.retired), (before.active, 0), "they stay counted as committed");
    assert!(kept.held + 4096 >= before.active && kept.resident > kept.active, "they are in memory: {kept:?}");
    assert!(kept.free + kept.kept < before.free + kept.active - before.allocated);
    // What grows next takes them, at no cost in budget.
    let keys: Vec<u64> = (0..2000).map(|key| key * 4 + 1).collect();
    for keys in keys.chunks(100) {
        let made = scene.store.apply_gradients(rows(), keys, &gradients(keys)).unwrap();
        assert_eq!((made.admitted, made.grown, made.refused), (100, 300, 0));
    }
    let used = scene.store.stats();
    assert!(used.kept < kept.kept && used.active == kept.active, "{} and then {}", kept.kept, used.kept);
    scene.store.validate().unwrap();
    // However often: nothing is lost from time to time.
    for seed in 10..20 {
        assert!(!scene.churn(seed, true), "growth was refused: superblocks have been lost");
        scene.store.prune().unwrap();
    }
    drop(trap);
    let keys: Vec<u64> = scene.store.iter(rows()).unwrap().map(|row| row.key).collect();
    keys.iter().for_each(|&key| assert!(scene.store.remove(rows(), key).unwrap()));
    scene.store.prune().unwrap();
    scene.store.validate().unwrap();
    assert!(scene.store.stats().peak <= scene.store.stats().budget);
}

#[test]
fn what_the_system_does_not_tell_counts_as_resident() {
    let scene = Scene::new(Kind::Sparse);
    let told = scene.store.stats();
    let trap = arm(current().id(), Point::Residency, 2, Action::Fail);
    let untold = scene.store.stats();
    assert!(trap.reached());
    assert_eq!(untold.resident, untold.held);
    assert!(told.resident <= untold.resident);
    scene.store.validate().unwrap();
}

/// A store of one table whose heads have the indices of one superblock.
fn few_indices(policy: Policy, deterministic: bool) -> (Store, u64) {
    let config = StoreConfig::new(4 << 20).policy(policy).deterministic(deterministic);
    let table = TableConfig::new("t", 16).optimizer(Optimizer::Sgd { lr: 1.0 });
    let mut inner = Inner::new(config, vec![table]).unwrap();
    let heads = inner.tables[0].heads;
    let slab = Arc::get_mut(&mut inner.slabs).unwrap().get_mut(heads);
    slab.limit_superblocks(2);
    let slots = u64::from(slab.slots());
    (Store { inner: Arc::new(inner), pruner: None, mover: None }, slots)
}

#[test]
fn without_a_policy_indices_that_run_out_are_a_typed_error() {
    let (store, slots) = few_indices(Policy::None, false);
    let keys: Vec<u64> = (0..slots + 7).collect();
    let error = store.apply_gradients(rows(), &keys, &gradients(&keys)).unwrap_err();
    assert!(matches!(error, StoreError::IndexSpace { refused: 7 }) && error.to_string().contains("larger chunk"));
    let stats = store.stats();
    assert_eq!((stats.rows, stats.events.refused), (slots, 7));
    assert!(stats.held < stats.budget / 2, "there was room");
    // What is there trains on, and what goes makes room.
    let there: Vec<u64> = store.iter(rows()).unwrap().map(|row| row.key).collect();
    assert_eq!(store.apply_gradients(rows(), &there, &gradients(&there)).unwrap().updated, slots);
    assert!(store.remove(rows(), there[0]).unwrap());
    store.prune().unwrap();
    assert_eq!(store.apply_gradients(rows(), &[1 << 50], &gradients(&[1 << 50])).unwrap().admitted, 1);
    store.validate().unwrap();
}

#[test]
fn under_a_policy_indices_that_run_out_are_refusals_and_no_error() {
    for deterministic in [false, true] {
        let (store, slots) = few_indices(Policy::Fiited(Default::default()), deterministic);
        let keys: Vec<u64> = (0..slots + 7).collect();
        let applied = store.apply_gradients(rows(), &keys, &gradients(&keys)).unwrap();
        let step = store.step().unwrap();
        assert_eq!((applied.admitted + step.admitted, applied.refused + step.refused), (slots, 7));
        assert_eq!(store.stats().events.refused, 7);
        store.prune().unwrap();
        store.validate().unwrap();
    }
}
