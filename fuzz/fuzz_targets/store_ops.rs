//! Sequences of store operations by simulated threads that interrupt each other in the middle, with listings, pins and
//! claims held open across them, against what is known of every row. `tests/model.rs` says the same of whole operations.
#![no_main]

use dimslab_fuzz::Bytes;
use dimslab_fuzz::world::{World, make};
use libfuzzer_sys::fuzz_target;

const OPERATIONS: u32 = 16;

fn operation(world: &World<'_>, thread: usize, choice: u8) {
    match choice {
        0..=15 => world.apply(thread, choice == 0),
        16..=21 => world.gather(thread),
        22 => world.gather_pooled(thread),
        23..=28 => world.remove(thread, choice > 26),
        29..=34 => world.step(thread),
        35..=37 => world.prune(thread),
        38..=42 => world.list(thread),
        43..=46 => world.toggle_pin(thread),
        47..=49 => world.read_located(thread),
        50..=53 => world.toggle_claim(thread),
        54..=60 => world.schedule.arm(world.bytes.next() % 128, choice % 4 + 1),
        61 => world.wrong_call(thread),
        62 => world.seam.collect(),
        _ => world.validate(),
    }
}

fuzz_target!(|data: &[u8]| {
    let bytes = &Bytes::new(data);
    let Some(made) = make(bytes, false) else { return };
    World::new(&made, bytes, OPERATIONS, operation).run(false);
});
