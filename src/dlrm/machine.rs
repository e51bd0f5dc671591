//! What the machine can do at best, measured in the moment: the two roofs that a step's time is held against.

use std::hint::black_box;
use std::time::Instant;

use crate::simd::{Kernels, MULTIPLY_ADDS};

/// Values read by each thread: 64 MiB, more than caches hold.
const VALUES: usize = 16 << 20;
const ROUNDS: u64 = 2_000_000;
const REPETITIONS: usize = 3;

/// Rates of all threads together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// Floating-point operations a second, a multiply-add counted as two, in vectors of the width that the kernels use.
    pub flops: f64,
    /// Bytes read from memory a second, one behind the other.
    pub bytes: f64,
}

impl Machine {
    /// Measures with that many threads; takes about a third of a second and, for that long, 64 MiB a thread.
    #[must_use]
    pub fn measure(threads: usize) -> Self {
        let threads = threads.max(1);
        let kernels = Kernels::get();
        let flops = best(|| together(threads, || (), |()| _ = black_box(kernels.multiply_adds(ROUNDS))));
        // Not zeros: the system may give one page of them for all.
        let made = || vec![1f32; VALUES];
        let bytes = best(|| together(threads, made, |values| _ = black_box(kernels.read(&values))));
        Self {
            flops: (2 * MULTIPLY_ADDS * ROUNDS * threads as u64) as f64 / flops,
            bytes: (VALUES * size_of::<f32>() * threads) as f64 / bytes,
        }
    }
}

fn best(mut seconds: impl FnMut() -> f64) -> f64 {
    (0..REPETITIONS).map(|_| seconds()).fold(f64::INFINITY, f64::min).max(1e-9)
}

/// The seconds that the slowest of the threads takes for `work` on what it made before.
fn together<T>(threads: usize, make: impl Fn() -> T + Sync, work: impl Fn(T) + Sync) -> f64 {
    let ready = std::sync::Barrier::new(threads);
    let one = || {
        let made = make();
        ready.wait();
        let began = Instant::now();
        work(made);
        began.elapsed().as_secs_f64()
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(one)).collect();
        let own = one();
        others.into_iter().filter_map(|other| other.join().ok()).fold(own, f64::max)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_a_machine() {
        let machine = Machine::measure(2);
        assert!((1e8..1e14).contains(&machine.flops), "{machine:?}");
        assert!((1e7..1e13).contains(&machine.bytes), "{machine:?}");
    }
}
