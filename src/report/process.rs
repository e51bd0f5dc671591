//! Memory of this process as the operating system counts it.

/// Resident memory of this process in bytes; `None` where the system does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ProcessMemory {
    /// Bytes resident now.
    pub resident: Option<u64>,
    /// Most bytes resident at once since the start, or since [`reset_process_peak`].
    pub peak: Option<u64>,
}

/// Reads `VmRSS` and `VmHWM` from `/proc/self/status` (Linux; nothing elsewhere).
pub(crate) fn process_memory() -> ProcessMemory {
    std::fs::read_to_string("/proc/self/status").map_or_else(|_| ProcessMemory::default(), |text| parse(&text))
}

/// Starts the count of the peak anew, so that a second run in one process is measured by itself. Says whether the
/// system allowed it.
pub(crate) fn reset_process_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

fn parse(status: &str) -> ProcessMemory {
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    };
    ProcessMemory { resident: bytes("VmRSS:"), peak: bytes("VmHWM:") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_are_read_in_bytes() {
        let text = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t3\n";
        assert_eq!(parse(text), ProcessMemory { resident: Some(1 << 20), peak: Some(2 << 20) });
        assert_eq!(parse("VmRSS: many\n"), ProcessMemory::default());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory() {
        let memory = process_memory();
        assert!(memory.resident.unwrap() > 100_000);
        assert!(memory.peak.unwrap() >= memory.resident.unwrap() / 2);
    }
}
