//! Edits of a file, drawn from the fuzzer's bytes.

/// Values that offsets, sizes and counts break at.
const WORDS: [u64; 6] = [0, 1, u64::MAX, 1 << 40, i64::MAX as u64, 0xFFFF_FFFF];

/// One edit: which kind, where, and with what.
pub fn edit(bytes: &mut Vec<u8>, by: &[u8]) {
    let [kind, low, high, with @ ..] = by else {
        return;
    };
    let at = usize::from(u16::from_le_bytes([*low, *high])) % (bytes.len() + 1);
    match kind % 8 {
        0 => bytes.truncate(at),
        // Written over, from that place or counted from the end.
        1 | 2 => bytes.iter_mut().skip(at).zip(with).for_each(|(byte, with)| *byte = *with),
        3 => bytes.iter_mut().rev().skip(at).zip(with).for_each(|(byte, with)| *byte = *with),
        4 => drop(bytes.splice(at..at, with.iter().copied())),
        5 => drop(bytes.drain(at..(at + with.len()).min(bytes.len()))),
        6 => {
            let word = WORDS[usize::from(with.first().copied().unwrap_or_default()) % WORDS.len()].to_le_bytes();
            bytes.iter_mut().skip(at).zip(word).for_each(|(byte, with)| *byte = with);
        }
        // A digit of a text.
        _ => {
            if let Some(digit) = bytes.iter_mut().skip(at).find(|byte| byte.is_ascii_digit()) {
                *digit = b'0' + with.first().copied().unwrap_or_default() % 10;
            }
        }
    }
}
