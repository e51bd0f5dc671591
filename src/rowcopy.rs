//! Floats that are read while they are written: the only way payload words are touched.
//!
//! A plain `f32` access beside a write is a data race, and relaxed atomics are not vectorised. So payload memory is
//! typed `[AtomicU32]`, and on x86-64 two primitives are inline assembly: copy 4 words and copy 16, by SSE, which every
//! x86-64 has, so that nothing is asked for each row and no register beside the four is lost. Their meaning is that of as
//! many relaxed loads and stores, which is how the twin that other processors and the model checker use is written;
//! `--cfg dimslab_atomic_rows` chooses it for tools that do not see into assembly, ThreadSanitizer above all.

use crate::sync::{AtomicU32, AtomicU64, Ordering};
#[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, fuzzing, dimslab_atomic_rows))))]
use std::arch::x86_64::{
    __m128, _mm_castps_si128, _mm_cmpeq_epi32, _mm_movemask_epi8, _mm_packs_epi16, _mm_packs_epi32, _mm_set1_epi32,
    _mm_setzero_si128, _mm_shuffle_ps,
};

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
    let end = start.wrapping_add(size_of_val(words));
    let mut at = start;
    while at < end {
        prefetch(at);
        at = at.wrapping_add(64);
    }
    // The last word's line, when the words do not begin on a line.
    prefetch(end.wrapping_sub(1));
}

/// Which of eight words have `value` as their upper half: a bit for each. What is read counts as relaxed loads.
#[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, fuzzing, dimslab_atomic_rows))))]
#[inline(always)]
pub(crate) fn upper_halves(words: &[AtomicU64; 8], value: u32) -> u32 {
    let (a, b, c, d): (__m128, __m128, __m128, __m128);
    // SAFETY: the words are 64 bytes that may be read. Other threads may be writing them: each half of the moves is an
    // aligned 8-byte access, as a relaxed load is.
    unsafe {
        std::arch::asm!(
            "movups {a}, [{from}]",
            "movups {b}, [{from} + 16]",
            "movups {c}, [{from} + 32]",
            "movups {d}, [{from} + 48]",
            from = in(reg) words.as_ptr(),
            a = out(xmm_reg) a,
            b = out(xmm_reg) b,
            c = out(xmm_reg) c,
            d = out(xmm_reg) d,
            options(nostack, preserves_flags),
        );
    }
    // SAFETY: every x86-64 processor has SSE2, which is all that is asked.
    unsafe { told_apart(a, b, c, d, value) }
}

/// Which of eight 8-byte lanes, two in each vector, have `value` as their upper half.
#[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, fuzzing, dimslab_atomic_rows))))]
#[target_feature(enable = "sse2")]
#[inline]
fn told_apart(a: __m128, b: __m128, c: __m128, d: __m128, value: u32) -> u32 {
    let value = _mm_set1_epi32(value.cast_signed());
    let first = _mm_cmpeq_epi32(_mm_castps_si128(_mm_shuffle_ps::<0b11_01_11_01>(a, b)), value);
    let last = _mm_cmpeq_epi32(_mm_castps_si128(_mm_shuffle_ps::<0b11_01_11_01>(c, d)), value);
    _mm_movemask_epi8(_mm_packs_epi16(_mm_packs_epi32(first, last), _mm_setzero_si128())).cast_unsigned()
}

/// The twin of what is written for x86-64.
#[cfg(not(all(target_arch = "x86_64", not(any(loom, shuttle, fuzzing, dimslab_atomic_rows)))))]
pub(crate) fn upper_halves<const N: usize>(words: &[AtomicU64; N], value: u32) -> u32 {
    upper_halves_one_by_one(words, value)
}

#[cfg(any(test, not(all(target_arch = "x86_64", not(any(loom, shuttle, fuzzing, dimslab_atomic_rows))))))]
fn upper_halves_one_by_one(words: &[AtomicU64], value: u32) -> u32 {
    let upper = |word: &AtomicU64| (word.load(Ordering::Relaxed) >> 32) as u32;
    words.iter().enumerate().fold(0, |found, (bit, word)| found | u32::from(upper(word) == value) << bit)
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

/// Copies sixteen words of 4 bytes, each with one access.
///
/// # Safety
/// `from` is valid for reads and `to` for writes of 64 bytes, both aligned to 4.
#[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, dimslab_atomic_rows))))]
#[inline(always)]
unsafe fn copy16(from: *const u32, to: *mut u32) {
    // SAFETY: the caller's; as in `copy4`.
    unsafe {
        std::arch::asm!(
            "movups {a}, [{from}]",
            "movups {b}, [{from} + 16]",
            "movups {c}, [{from} + 32]",
            "movups {d}, [{from} + 48]",
            "movups [{to}], {a}",
            "movups [{to} + 16], {b}",
            "movups [{to} + 32], {c}",
            "movups [{to} + 48], {d}",
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            from = in(reg) from,
            to = in(reg) to,
            options(nostack, preserves_flags),
        );
    }
}

/// Copies as many of `words` words as the two primitives take and returns how many that is.
///
/// # Safety
/// `from` is valid for reads and `to` for writes of that many words, both aligned to 4.
#[cfg(all(target_arch = "x86_64", not(any(loom, shuttle, dimslab_atomic_rows))))]
#[inline(always)]
unsafe fn copy_most(mut from: *const u32, mut to: *mut u32, words: usize) -> usize {
    for _ in 0..words / 16 {
        // SAFETY: within the caller's lengths.
        unsafe { copy16(from, to) };
        (from, to) = (from.wrapping_add(16), to.wrapping_add(16));
    }
    for _ in 0..words % 16 / 4 {
        // SAFETY: within the caller's lengths.
        unsafe { copy4(from, to) };
        (from, to) = (from.wrapping_add(4), to.wrapping_add(4));
    }
    words - words % 4
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
#[inline(always)]
pub(crate) fn load(from: &[AtomicU32], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    // SAFETY: both are that long and aligned as their elements are.
    let done = unsafe { copy_most(from.as_ptr().cast(), to.as_mut_ptr().cast(), from.len()) };
    if done < from.len() {
        load_words(&from[done..], &mut to[done..]);
    }
}

/// Appends words as they are.
#[inline]
pub(crate) fn append(from: &[AtomicU32], to: &mut Vec<u32>) {
    let begin = to.len();
    to.resize(begin + from.len(), 0);
    let to = &mut to[begin..];
    // SAFETY: both are that long and aligned as their elements are.
    let done = unsafe { copy_most(from.as_ptr().cast(), to.as_mut_ptr(), from.len()) };
    for (to, from) in to[done..].iter_mut().zip(&from[done..]) {
        // Relaxed: as in `load_words`.
        *to = from.load(Ordering::Relaxed);
    }
}

/// Copies words in, for the thread that has the row's claim.
#[inline]
pub(crate) fn store(from: &[f32], to: &[AtomicU32]) {
    assert_eq!(from.len(), to.len());
    // SAFETY: both are that long and aligned as their elements are; atomic words may be written through a shared reference.
    let done = unsafe { copy_most(from.as_ptr().cast(), to.as_ptr().cast_mut().cast(), from.len()) };
    if done < from.len() {
        store_words(&from[done..], &to[done..]);
    }
}

/// The twin of [`load`], and its end.
#[inline(never)]
fn load_words(from: &[AtomicU32], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        // Relaxed: ordered by the fences around the row's sequence word.
        *to = f32::from_bits(from.load(Ordering::Relaxed));
    }
}

/// The twin of [`store`], and its end.
#[inline(never)]
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

    #[test]
    fn the_words_with_an_upper_half_are_told() {
        for value in [0, 7, 1 << 31, u32::MAX] {
            for expected in 0..256u32 {
                // Lower halves that would match are of no use.
                let words: [AtomicU64; 8] = std::array::from_fn(|bit| {
                    let upper = if expected >> bit & 1 == 1 { value } else { value ^ 1 << (bit * 4) };
                    AtomicU64::new(u64::from(upper) << 32 | u64::from(value))
                });
                assert_eq!(upper_halves(&words, value), expected);
                assert_eq!(upper_halves_one_by_one(&words, value), expected);
            }
        }
    }

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
            let mut appended = vec![9];
            append(&fast[..floats.len()], &mut appended);
            prop_assert_eq!(appended[0], 9);
            prop_assert_eq!(&appended[1..], bits(&twin));
        }
    }
}
