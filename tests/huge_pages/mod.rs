//! What the system tells of huge pages.

const HUGE_PAGE: usize = 2 << 20;

/// Bytes of this process in huge pages.
pub(crate) fn bytes_in_huge_pages() -> u64 {
    let all = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = all.lines().find(|line| line.starts_with("AnonHugePages:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

/// Whether the system moves what is in memory to huge pages of that size.
pub(crate) fn can_move() -> bool {
    let memory = vec![1u8; 2 * HUGE_PAGE];
    let start = memory.as_ptr().addr().next_multiple_of(HUGE_PAGE);
    // SAFETY: within the memory above, which holds the same bytes afterwards.
    let moved = unsafe { libc::madvise(std::ptr::without_provenance_mut(start), HUGE_PAGE, libc::MADV_COLLAPSE) } == 0;
    std::hint::black_box(&memory);
    moved
}
