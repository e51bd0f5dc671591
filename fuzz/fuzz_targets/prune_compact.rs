//! Pruning rounds and compaction in a tight budget, by simulated threads that interrupt each other in the middle, with pins
//! and claims held open. A round that nobody interrupts takes exactly what the policy says; rows that stay keep their
//! values wherever they are moved; when everything is removed and nobody is pinned, all superblocks are given back.
#![no_main]

use dimslab_fuzz::Bytes;
use dimslab_fuzz::world::{World, make};
use libfuzzer_sys::fuzz_target;

const OPERATIONS: u32 = 16;

fn operation(world: &World<'_>, thread: usize, choice: u8) {
    match choice {
        0..=17 => world.apply(thread, false),
        18..=25 => world.step(thread),
        26..=33 => world.prune(thread),
        34 | 35 => world.prune_to(thread),
        36..=46 => world.remove(thread, choice > 40),
        47..=50 => world.toggle_pin(thread),
        51 | 52 => world.read_located(thread),
        53..=55 => world.toggle_claim(thread),
        56..=60 => world.schedule.arm(world.bytes.next() % 128, choice % 4 + 1),
        61 => world.seam.collect(),
        62 => world.gather(thread),
        _ => world.validate(),
    }
}

fuzz_target!(|data: &[u8]| {
    let bytes = &Bytes::new(data);
    let Some(made) = make(bytes, true) else { return };
    World::new(&made, bytes, OPERATIONS, operation).run(true);
});
