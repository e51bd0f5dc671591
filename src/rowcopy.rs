//! Floats that are read while they are written: the only way payload words are touched.
//!
//! A plain `f32` access beside a write is a data race, and relaxed atomics are not vectorised. So payload memory is
//! typed `[AtomicU32]`, and on x86-64 two primitives are inline assembly: copy 4 words (SSE, which every x86-64 has) and copy
//! words by 8 (AVX, where the processor has it). Their meaning is that of as many relaxed loads and stores, which is how the twin
//! that other processors and the model checker use is written; `--cfg dimslab_atomic_rows` chooses it for tools that do
//! not see into assembly, ThreadSanitizer above all.

use crate::sync::{AtomicU32, Ordering};

/// Asks the processor to bring a cache line closer. Has no other effect, whatever the address.
#[inline]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, dimslab_atomic_rows))))]
    // SAFETY: a prefetch never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, shuttle, dimslab_atomic_rows)))))]
    let _ = address;
}

/// Asks for all lines of some words.
#[inline]
pub(crate) fn prefetch_words(words: &[AtomicU32]) {
    let start = words.as_ptr().cast::<u8>();
    for offset in (0..size_of_val(words)).step_by(64) {
        prefetch(start.wrapping_add(offset));
    }
    // The last word's line, when the words do not begin on a line.
    prefetch(start.wrapping_add(size_of_val(words) - 1));
}

/// Copies four words of 4 bytes, each with one access.
///
/// # Safety
/// `from` is valid for reads and `to` for writes of 16 bytes, both aligned to 4.
#[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, dimslab_atomic_rows))))]
#[inline(always)]
unsafe fn copy4(from: *const u32, to: *mut u32) {
    // SAFETY: the caller's. Other threads may be writing what is read here, or reading what is written: each lane of the
    // two moves is one aligned 4-byte access, as a relaxed load or store is. Neither `pure` nor `readonly`.
    unsafe {
        std::arch::asm!(
            "movups {lanes}, [{from}]",
            "movups [{to}], {lanes}",
            lanes = out(xmm_reg) _,
            from = in(reg) from,
            to = in(reg) to,
            options(nostack, preserves_flags),
        );
    }
}

/// Copies words of 4 bytes, each with one access, 8 at a time.
///
/// # Safety
/// The processor has AVX; `words` is a multiple of 8 above 0; `from` is valid for reads and `to` for writes of that many
/// words, both aligned to 4.
#[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, dimslab_atomic_rows))))]
#[inline(always)]
unsafe fn copy_by_8(from: *const u32, to: *mut u32, words: usize) {
    // SAFETY: the caller's; as in `copy4`. `at` runs from minus the length to 0, counted from the ends. The upper halves of
    // the vector registers are cleared for code that does not know of them, so all of these count as overwritten.
    unsafe {
        std::arch::asm!(
            "2:",
            "vmovups ymm0, [{from} + rax]",
            "vmovups [{to} + rax], ymm0",
            "add rax, 32",
            "jnz 2b",
            "vzeroupper",
            from = in(reg) from.wrapping_add(words),
            to = in(reg) to.wrapping_add(words),
            inout("rax") (words as isize * -4) => _,
            clobber_abi("C"),
            options(nostack),
        );
    }
}

/// Copies as many of `words` words as the vector instructions take and returns how many that is.
///
/// # Safety
/// `from` is valid for reads and `to` for writes of that many words, both aligned to 4.
#[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, dimslab_atomic_rows))))]
#[inline(always)]
unsafe fn copy_most(from: *const u32, to: *mut u32, words: usize) -> usize {
    let mut done = 0;
    if words >= 8 && std::arch::is_x86_feature_detected!("avx") {
        done = words / 8 * 8;
        // SAFETY: the processor was asked; the length is a multiple of 8 and no more than the caller's.
        unsafe { copy_by_8(from, to, done) };
    }
    while done + 4 <= words {
        // SAFETY: within the caller's lengths.
        unsafe { copy4(from.wrapping_add(done), to.wrapping_add(done)) };
        done += 4;
    }
    done
}

/// Leaves all words to the twin.
///
/// # Safety
/// None is needed.
#[cfg(not(all(target_arch = "x86_64", not(any(loom, shuttle, dimslab_atomic_rows)))))]
unsafe fn copy_most(_from: *const u32, _to: *mut u32, _words: usize) -> usize {
    0
}

/// Copies words out. Torn only between words; the caller's sequence word says whether to believe the whole.
#[inline]
pub(crate) fn load(from: &[AtomicU32], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    // SAFETY: both are that long and aligned as their elements are.
    let done = unsafe { copy_most(from.as_ptr().cast(), to.as_mut_ptr().cast(), from.len()) };
    load_words(&from[done..], &mut to[done..]);
}

/// Copies words in, for the thread that has the row's claim.
#[inline]
pub(crate) fn store(from: &[f32], to: &[AtomicU32]) {
    assert_eq!(from.len(), to.len());
    // SAFETY: both are that long and aligned as their elements are; atomic words may be written through a shared reference.
    let done = unsafe { copy_most(from.as_ptr().cast(), to.as_ptr().cast_mut().cast(), from.len()) };
    store_words(&from[done..], &to[done..]);
}

/// The twin of [`load`], and its tail.
fn load_words(from: &[AtomicU32], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        // Relaxed: ordered by the fences around the row's sequence word.
        *to = f32::from_bits(from.load(Ordering::Relaxed));
    }
}

/// The twin of [`store`], and its tail.
fn store_words(from: &[f32], to: &[AtomicU32]) {
    for (from, to) in from.iter().zip(to) {
        // Relaxed: as in `load_words`.
        to.store(from.to_bits(), Ordering::Relaxed);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_ways_agree_with_the_twin(values in proptest::collection::vec(any::<u32>(), 0..70), skip in 0usize..4) {
            let floats: Vec<f32> = values.iter().copied().map(f32::from_bits).collect();
            let floats = &floats[skip.min(floats.len())..];
            let (fast, plain): (Vec<_>, Vec<_>) = (0..floats.len() + 1).map(|_| (AtomicU32::new(1), AtomicU32::new(1))).unzip();
            store(floats, &fast[..floats.len()]);
            store_words(floats, &plain[..floats.len()]);
            let bits = |words: &[AtomicU32]| words.iter().map(|word| word.load(Ordering::Relaxed)).collect::<Vec<_>>();
            prop_assert_eq!(bits(&fast), bits(&plain));
            let (mut read, mut twin) = (vec![0f32; floats.len()], vec![0f32; floats.len()]);
            load(&fast[..floats.len()], &mut read);
            load_words(&plain[..floats.len()], &mut twin);
            let bits = |floats: &[f32]| floats.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&read), bits(&twin));
        }
    }
}
