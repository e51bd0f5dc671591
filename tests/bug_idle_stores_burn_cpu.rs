//! DeepRec #413, #481: background threads that evict and compact burn a processor while there is nothing to do.
#![cfg(target_os = "linux")]

use dimslab::{FiitedConfig, Policy, Store, StoreConfig, TableConfig, TableId};
use std::time::{Duration, Instant};

/// Processor time of this process, in ticks (of which there are 100 a second on Linux).
fn ticks() -> u64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Waits until this process has used no processor time for half a second: the last rounds are over, and so are the rests
/// after which a pruning thread may begin another.
fn settle() {
    let begin = Instant::now();
    let (mut used, mut since) = (ticks(), Instant::now());
    while since.elapsed() < Duration::from_millis(500) {
        std::thread::sleep(Duration::from_millis(50));
        let now = ticks();
        if now != used {
            (used, since) = (now, Instant::now());
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "idle stores do not come to rest");
    }
}

// Catches: a pruning thread that polls, or rounds that begin without a step.
#[test]
fn idle_stores_use_no_processor_time() {
    let policy = FiitedConfig { period_steps: 4, warmup_steps: 1, ..FiitedConfig::default() };
    let stores: Vec<Store> = (0..8)
        .map(|_| {
            let config = StoreConfig::new(1 << 20).policy(Policy::Fiited(policy));
            let store = Store::new(config, vec![TableConfig::new("t", 16)]).unwrap();
            // Past the limit, so that the last thing known is that growth waits for room.
            for from in (0..20_000u64).step_by(500) {
                let keys: Vec<u64> = (from..from + 500).collect();
                store.apply_gradients(TableId::new(0), &keys, &vec![0.5; keys.len() * 16]).unwrap();
                store.step().unwrap();
            }
            store
        })
        .collect();
    settle();
    let before = ticks();
    std::thread::sleep(Duration::from_secs(2));
    let used = ticks() - before;
    assert!(used <= 10, "{used} ticks of 200 while eight stores were idle");
    stores.iter().for_each(|store| store.validate().unwrap());
}
