//! One binary, three allocators: a child process uses the one that its environment names.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU8, Ordering};

/// Names the allocator of a child process by its first letter.
pub(crate) const VARIABLE: &str = "DIMSLAB_BENCH_ALLOCATOR";

#[global_allocator]
static GLOBAL: Chosen = Chosen;

/// Hands everything to the allocator that the environment names.
struct Chosen;

/// First letter of the choice; 0 before the first allocation. Relaxed: every thread would choose the same.
static CHOICE: AtomicU8 = AtomicU8::new(0);

fn choice() -> u8 {
    match CHOICE.load(Ordering::Relaxed) {
        0 => {
            // Not `std::env`, which allocates.
            // SAFETY: the name ends with a zero, and nothing in this program changes the environment.
            let value = unsafe { libc::getenv(c"DIMSLAB_BENCH_ALLOCATOR".as_ptr()) };
            let letter = if value.is_null() {
                b's'
            } else {
                // SAFETY: not null, so a string that ends with a zero: its first byte is there.
                unsafe { *value.cast::<u8>() }
            };
            CHOICE.store(letter.max(1), Ordering::Relaxed);
            letter.max(1)
        }
        letter => letter,
    }
}

fn chosen() -> &'static dyn GlobalAlloc {
    match choice() {
        b'm' => &mimalloc::MiMalloc,
        b'j' => &tikv_jemallocator::Jemalloc,
        _ => &System,
    }
}

// SAFETY: the choice is made at the first allocation and never changes, so memory goes back to the allocator that it
// came from; all else is theirs.
unsafe impl GlobalAlloc for Chosen {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { chosen().alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise; the memory is of the same allocator.
        unsafe { chosen().dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { chosen().alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise; the memory is of the same allocator.
        unsafe { chosen().realloc(memory, layout, size) }
    }
}

/// Bytes that the allocator of this process says it holds: its heap and its own mappings for the system's, pages in
/// use for jemalloc. mimalloc does not say.
pub(crate) fn held() -> Option<u64> {
    match choice() {
        b'm' => None,
        b'j' => {
            tikv_jemalloc_ctl::epoch::advance().ok()?;
            Some(tikv_jemalloc_ctl::stats::active::read().ok()? as u64)
        }
        _ => {
            // SAFETY: no preconditions.
            let info = unsafe { libc::mallinfo2() };
            Some((info.arena + info.hblkhd) as u64)
        }
    }
}

/// Asks the system's allocator to give back what it can.
pub(crate) fn trim() {
    // SAFETY: no preconditions.
    unsafe { libc::malloc_trim(0) };
}

/// Bytes of this process that are in memory.
pub(crate) fn resident() -> Result<u64, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = text.split_whitespace().nth(1).ok_or("an empty statm")?.parse()?;
    // SAFETY: no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Ok(pages * u64::try_from(page)?)
}
