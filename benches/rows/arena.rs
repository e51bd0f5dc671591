//! Rows in one mapping, addressed by number: what a flat array is, and where maps of slots keep their rows.
//!
//! Threads train rows without locks, as such programs do, so a row may be written by two at once and its values are then
//! anybody's. To be no data race in Rust's sense either, rows are atomic words, copied by instructions the compiler does not
//! look into: wider ones than relaxed atomics would become.

use dimslab::simd::Kernels;
use memmap2::{Advice, MmapOptions, MmapRaw};
use std::sync::atomic::{AtomicU32, Ordering};

/// The longest row.
pub(crate) const DIM_MAX: usize = 128;
/// What a row follows its gradients by: exact for the values that are checked.
pub(crate) const RATE: f32 = 1.0 / (1u32 << 20) as f32;

/// Rows of one length, none of which is in memory before it is first written.
pub(crate) struct Arena {
    memory: MmapRaw,
    words: usize,
    /// Words that a row has before its values.
    head: usize,
    dim: usize,
    wide: bool,
}

/// How large the pages are that the system is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pages {
    Small,
    Huge,
}

impl Arena {
    pub(crate) fn new(rows: u64, dim: usize, pages: Pages) -> std::io::Result<Arena> {
        Arena::with_heads(rows, 0, dim, pages)
    }

    /// With so many words before the values of each row, which then begin on no boundary.
    pub(crate) fn with_heads(rows: u64, head: usize, dim: usize, pages: Pages) -> std::io::Result<Arena> {
        assert!(dim <= DIM_MAX && dim.is_multiple_of(4), "rows are whole vectors of 4");
        let words = rows as usize * (head + dim);
        let memory = MmapRaw::from(MmapOptions::new().len(words * 4).map_anon()?);
        memory.advise(if pages == Pages::Huge { Advice::HugePage } else { Advice::NoHugePage })?;
        Ok(Arena { memory, words, head, dim, wide: wide() })
    }

    pub(crate) fn dim(&self) -> usize {
        self.dim
    }

    /// A row with its head.
    fn whole(&self, row: usize) -> &[AtomicU32] {
        // SAFETY: the mapping is that long, aligned to pages, writable, and lives as long as `self`; nothing but these
        // words is made of it.
        let words = unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast::<AtomicU32>(), self.words) };
        let stride = self.head + self.dim;
        &words[row * stride..(row + 1) * stride]
    }

    fn row(&self, row: usize) -> &[AtomicU32] {
        &self.whole(row)[self.head..]
    }

    /// One word of a row and its head.
    #[inline]
    pub(crate) fn word(&self, row: usize, at: usize) -> &AtomicU32 {
        &self.whole(row)[at]
    }

    #[inline]
    pub(crate) fn prefetch(&self, row: usize) {
        let row = self.whole(row);
        let start = row.as_ptr().cast::<u8>();
        for offset in (0..size_of_val(row)).step_by(64) {
            prefetch(start.wrapping_add(offset));
        }
        if self.head > 0 {
            prefetch(start.wrapping_add(size_of_val(row) - 1));
        }
    }

    /// Copies the row to `out`, `[dim]`.
    #[inline]
    pub(crate) fn read(&self, row: usize, out: &mut [f32]) {
        let row = self.row(row);
        assert_eq!(row.len(), out.len());
        // SAFETY: both are as long as `row`.
        unsafe { copy(row.as_ptr().cast(), out.as_mut_ptr().cast(), row.len(), self.wide) };
    }

    /// Copies `values`, `[dim]`, to the row.
    #[inline]
    pub(crate) fn write(&self, row: usize, values: &[f32]) {
        let row = self.row(row);
        assert_eq!(row.len(), values.len());
        // SAFETY: both are as long as `row`; atomic words may be written through a shared reference.
        unsafe { copy(values.as_ptr().cast(), row.as_ptr().cast_mut().cast(), row.len(), self.wide) };
    }

    /// Adds the row to `sum`, `[dim]`.
    #[inline]
    pub(crate) fn add_to(&self, row: usize, simd: Kernels, sum: &mut [f32]) {
        let mut values = [0f32; DIM_MAX];
        self.read(row, &mut values[..self.dim]);
        simd.add(sum, &values[..self.dim]);
    }

    /// One step of gradient descent.
    #[inline]
    pub(crate) fn step(&self, row: usize, simd: Kernels, grad: &[f32]) {
        let mut values = [0f32; DIM_MAX];
        let values = &mut values[..self.dim];
        self.read(row, values);
        simd.axpy(values, -RATE, grad);
        self.write(row, values);
    }
}

/// Whether rows are copied 32 bytes at a time.
fn wide() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

#[inline]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Copies `words` words, a multiple of 4, each with one access.
///
/// # Safety
/// `from` is valid for reads and `to` for writes of so many words, both aligned to 4, and `wide` only with AVX.
#[inline(always)]
unsafe fn copy(from: *const u32, to: *mut u32, words: usize, wide: bool) {
    #[cfg(target_arch = "x86_64")]
    if wide && words.is_multiple_of(8) && words > 0 {
        // SAFETY: the caller's; the lanes are single aligned accesses.
        unsafe {
            std::arch::asm!(
                "2:",
                "vmovups ymm0, [{from} + {at}]",
                "vmovups [{to} + {at}], ymm0",
                "add {at}, 32",
                "cmp {at}, {bytes}",
                "jb 2b",
                "vzeroupper",
                from = in(reg) from,
                to = in(reg) to,
                at = inout(reg) 0usize => _,
                bytes = in(reg) words * 4,
                out("xmm0") _,
                options(nostack),
            );
        }
        return;
    }
    let _ = wide;
    for word in 0..words {
        // SAFETY: in range and aligned, says the caller; all threads touch these words by single accesses.
        let from = unsafe { AtomicU32::from_ptr(from.wrapping_add(word).cast_mut()) };
        // SAFETY: as above.
        let to = unsafe { AtomicU32::from_ptr(to.wrapping_add(word)) };
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}
