//! Makes a use of freed memory show in the models: what is freed is filled with a pattern that is no state of an atomic
//! of loom's, which knows each by its number.

use std::alloc::{GlobalAlloc, Layout, System};

struct Filling;

#[global_allocator]
static FILLING: Filling = Filling;

// SAFETY: the system's allocator does all of it; the memory is filled just before it is given back to that.
unsafe impl GlobalAlloc for Filling {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller gives the memory up, all `layout.size()` bytes of it.
        unsafe { memory.write_bytes(0xDF, layout.size()) };
        // SAFETY: the caller's.
        unsafe { System.dealloc(memory, layout) }
    }
}
