//! Archives: any bytes as one, and any content in one that is then cut or damaged. What comes out is the content, or a
//! typed error, and never a shorter content.
#![no_main]

use std::io::{Cursor, Read, Write};

use dimslab::data::{Compression, DataError, Input};
use libfuzzer_sys::fuzz_target;

/// Content read of one archive, at most: a few bytes can stand for gigabytes.
const READ_MOST: u64 = 4 << 20;

/// The decoded content, up to a limit.
fn decode(bytes: &[u8]) -> Result<(Compression, Vec<u8>), DataError> {
    let mut input = Input::from_reader("fuzz", Cursor::new(bytes.to_vec()))?;
    let compression = input.compression();
    let mut content = Vec::new();
    let mut buffer = [0; 8192];
    while (content.len() as u64) < READ_MOST {
        match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => content.extend_from_slice(&buffer[..n]),
            Err(error) => return Err(input.explain(error)),
        }
    }
    Ok((compression, content))
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

fn zstd(content: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).expect("level 1");
    encoder.include_checksum(true).expect("a setting");
    encoder.write_all(content).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

fuzz_target!(|data: &[u8]| {
    let [mode, at, flip, content @ ..] = data else {
        return;
    };
    let pack = if mode & 1 == 0 { gzip } else { zstd };
    match mode % 8 {
        0 | 1 => match decode(content) {
            Ok((Compression::Plain, out)) => assert_eq!(out, &content[..out.len()]),
            Ok(_) | Err(DataError::Truncated { .. } | DataError::Corrupt { .. }) => {}
            Err(other) => panic!("{other}"),
        },
        // Several members.
        2 | 3 => {
            let (a, b) = content.split_at(usize::from(*at).min(content.len()));
            let (_, out) = decode(&[pack(a), pack(b)].concat()).expect("whole members");
            assert_eq!(out, content);
        }
        // Cut after the magic number.
        4 | 5 => {
            let whole = pack(content);
            let cut = 4 + usize::from(*at) * (whole.len() - 5) / 255;
            let result = decode(&whole[..cut]);
            assert!(matches!(result, Err(DataError::Truncated { .. })), "cut at {cut} of {}", whole.len());
        }
        // One byte changed: noticed, or without effect on the content (as a time stamp in a header).
        _ => {
            let mut bytes = pack(content);
            let at = 4 + usize::from(*at) * (bytes.len() - 5) / 255;
            bytes[at] ^= flip;
            match decode(&bytes) {
                Ok((_, out)) => assert_eq!(out, content),
                Err(DataError::Truncated { .. } | DataError::Corrupt { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
    }
});
