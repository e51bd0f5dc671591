//! Files as streams of decoded bytes: plain, gzip or zstd, told apart by their first bytes and never by name.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use super::DataError;

/// Longest line of text, or CSV record, that is read as one: honest rows are a few hundred bytes to a few KiB, and a
/// bound keeps a file without line ends (or a decompression bomb) from filling memory.
pub(super) const LINE_LIMIT: usize = 1 << 20;

/// Size of the buffer between a file and its decoder, and of the one between a decoder and a parser.
const BUFFER_BYTES: usize = 128 << 10;

/// Enough of a file's head for every magic number and for zstd's window size (RFC 8878, 3.1.1.1: at most 18 bytes).
const HEAD_BYTES: usize = 18;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not compressed.
    Plain,
    /// One or several gzip members (RFC 1952).
    Gzip,
    /// One or several zstd frames (RFC 8878).
    Zstd,
}

impl Compression {
    /// Recognises a format by a file's first bytes.
    pub fn of(head: &[u8]) -> Compression {
        match head {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            // A skippable frame, which may come before the data (parallel zstd writes one).
            [first, 0x2a, 0x4d, 0x18, ..] if first & 0xf0 == 0x50 => Compression::Zstd,
            _ => Compression::Plain,
        }
    }

    /// `plain`, `gzip` or `zstd`.
    pub fn name(self) -> &'static str {
        match self {
            Compression::Plain => "plain",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }
}

/// One file, or any other reader, as a stream of decoded bytes.
pub struct Input {
    path: PathBuf,
    reader: Box<dyn Read + Send>,
    compression: Compression,
    /// Bytes that have come out so far.
    decoded: u64,
    buffer_bytes: u64,
}

impl Input {
    /// Opens a file.
    ///
    /// # Errors
    /// [`DataError::Open`] and [`DataError::Read`]; a damaged archive shows later, when it is read.
    pub fn open(path: &Path) -> Result<Input, DataError> {
        let file = File::open(path).map_err(|source| DataError::Open { path: path.into(), source })?;
        Input::from_reader(path, file)
    }

    /// Decodes what `reader` gives. `path` is its name in messages.
    ///
    /// # Errors
    /// [`DataError::Read`] when the first bytes cannot be read.
    pub fn from_reader(path: impl Into<PathBuf>, reader: impl Read + Send + 'static) -> Result<Input, DataError> {
        let path = path.into();
        let (head, reader) = match peek(reader) {
            Ok(peeked) => peeked,
            Err(source) => return Err(DataError::Read { path, source }),
        };
        let compression = Compression::of(&head);
        let raw = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(head.clone()).chain(reader));
        let (reader, decoder_bytes): (Box<dyn Read + Send>, u64) = match compression {
            Compression::Plain => (Box::new(raw), 0),
            Compression::Gzip => (Box::new(flate2::bufread::MultiGzDecoder::new(raw)), GZIP_STATE_BYTES),
            Compression::Zstd => match zstd::stream::read::Decoder::with_buffer(raw) {
                Ok(decoder) => (Box::new(decoder), zstd_state_bytes(&head)),
                Err(source) => return Err(DataError::Read { path, source }),
            },
        };
        let buffer_bytes = BUFFER_BYTES as u64 + decoder_bytes;
        Ok(Input { path, reader, compression, decoded: 0, buffer_bytes })
    }

    /// The name under which messages speak of this input.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the input is compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Bytes held for reading ahead and for the decoder's window.
    pub(super) fn buffer_bytes(&self) -> u64 {
        self.buffer_bytes
    }

    /// Gives an error of [`Read::read`] on this input its type.
    pub fn explain(&self, source: io::Error) -> DataError {
        let path = self.path.clone();
        let (format, bytes) = (self.compression.name(), self.decoded);
        if self.compression == Compression::Plain || source.raw_os_error().is_some() {
            DataError::Read { path, source }
        } else if source.kind() == io::ErrorKind::UnexpectedEof {
            DataError::Truncated { path, format, bytes }
        } else {
            DataError::Corrupt { path, format, bytes, source }
        }
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.reader.read(buffer) {
                Ok(n) => {
                    self.decoded += n as u64;
                    return Ok(n);
                }
                // A signal arrived; not every parser above tries again by itself.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Inflate's window and tables.
const GZIP_STATE_BYTES: u64 = 64 << 10;

/// Memory of zstd's decoder for a stream that begins with `head`: the window that the first frame announces (RFC
/// 8878, 3.1.1.1.2), two blocks, and its fixed state.
fn zstd_state_bytes(head: &[u8]) -> u64 {
    const BLOCK: u64 = 128 << 10;
    const FIXED: u64 = 160 << 10;
    let window = match head.get(4..6) {
        Some(&[descriptor, window]) if descriptor & 0x20 == 0 => {
            let base = 1u64 << (10 + (window >> 3));
            base + base / 8 * u64::from(window & 7)
        }
        // A single segment needs no window beyond its content; it is small, or one block is a fair guess.
        _ => BLOCK,
    };
    window.min(1 << 27) + 2 * BLOCK + FIXED
}

/// Reads up to [`HEAD_BYTES`] and gives them back with the reader.
fn peek<R: Read>(mut reader: R) -> io::Result<(Vec<u8>, R)> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    reader.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok((head, reader))
}

/// Several inputs, to be read one after the other as one stream.
pub struct Inputs {
    pending: VecDeque<Pending>,
}

enum Pending {
    File(PathBuf),
    Open(Input),
}

impl Inputs {
    /// Files, in the order given. Each is opened once now, so that a wrong name shows before a long run and not after
    /// it, and again when its turn comes. A first file that can be read only once (a pipe) is therefore kept open.
    ///
    /// # Errors
    /// [`DataError::NoInput`], and [`DataError::Open`] or [`DataError::Read`] for the first file that fails.
    pub fn files<P: AsRef<Path>>(paths: &[P]) -> Result<Inputs, DataError> {
        let Some((first, rest)) = paths.split_first() else {
            return Err(DataError::NoInput);
        };
        let mut pending = VecDeque::from([Pending::Open(Input::open(first.as_ref())?)]);
        for path in rest {
            let path = path.as_ref().to_path_buf();
            match path.metadata() {
                Ok(meta) if !meta.is_file() => pending.push_back(Pending::Open(Input::open(&path)?)),
                _ => {
                    File::open(&path).map_err(|source| DataError::Open { path: path.clone(), source })?;
                    pending.push_back(Pending::File(path));
                }
            }
        }
        Ok(Inputs { pending })
    }

    /// Inputs that are already open.
    pub fn from_inputs(inputs: Vec<Input>) -> Inputs {
        Inputs { pending: inputs.into_iter().map(Pending::Open).collect() }
    }

    /// The next input, or `None` after the last.
    pub(super) fn next_input(&mut self) -> Result<Option<Input>, DataError> {
        match self.pending.pop_front() {
            None => Ok(None),
            Some(Pending::Open(input)) => Ok(Some(input)),
            Some(Pending::File(path)) => Input::open(&path).map(Some),
        }
    }
}

/// What [`Lines::read`] met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineRead {
    /// A line, now in the buffer without its line end.
    Line,
    /// A line longer than [`LINE_LIMIT`]: the buffer has its beginning, and the rest is skipped.
    TooLong,
    /// The input has ended.
    End,
}

/// An input line by line. Line ends are `\n` or `\r\n`, and the last line may lack one.
pub(super) struct Lines {
    reader: BufReader<Input>,
    line: u64,
}

impl Lines {
    pub(super) fn new(input: Input) -> Lines {
        Lines { reader: BufReader::with_capacity(BUFFER_BYTES, input), line: 0 }
    }

    pub(super) fn path(&self) -> &Path {
        self.reader.get_ref().path()
    }

    /// 1-based number of the line that was read last.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    pub(super) fn buffer_bytes(&self) -> u64 {
        self.reader.capacity() as u64 + self.reader.get_ref().buffer_bytes()
    }

    /// Reads the next line into `line`, which is emptied first.
    pub(super) fn read(&mut self, line: &mut Vec<u8>) -> Result<LineRead, DataError> {
        line.clear();
        let limit = LINE_LIMIT as u64 + 1;
        let read = match self.reader.by_ref().take(limit).read_until(b'\n', line) {
            Ok(read) => read,
            Err(source) => return Err(self.reader.get_ref().explain(source)),
        };
        if read == 0 {
            return Ok(LineRead::End);
        }
        self.line += 1;
        if line.last() == Some(&b'\n') {
            line.pop();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            return Ok(LineRead::Line);
        }
        if line.len() <= LINE_LIMIT {
            return Ok(LineRead::Line);
        }
        match self.reader.skip_until(b'\n') {
            Ok(_) => Ok(LineRead::TooLong),
            Err(source) => Err(self.reader.get_ref().explain(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd_frame(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// All bytes of an input, or its typed error.
    fn read_all(bytes: Vec<u8>) -> Result<Vec<u8>, DataError> {
        let mut input = Input::from_reader("in", Cursor::new(bytes))?;
        let mut out = Vec::new();
        match input.read_to_end(&mut out) {
            Ok(_) => Ok(out),
            Err(error) => Err(input.explain(error)),
        }
    }

    /// Text that does not compress to nothing, over several deflate and zstd blocks.
    fn sample() -> Vec<u8> {
        (0u64..20_000).flat_map(|i| format!("{:x}\n", i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into_bytes()).collect()
    }

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        let text = sample();
        for (bytes, compression) in [
            (text.clone(), Compression::Plain),
            (gzip(&text), Compression::Gzip),
            (zstd_frame(&text), Compression::Zstd),
            (Vec::new(), Compression::Plain),
            (vec![0x1f], Compression::Plain),
        ] {
            let input = Input::from_reader("in", Cursor::new(bytes)).unwrap();
            assert_eq!(input.compression(), compression);
        }
        assert_eq!(read_all(gzip(&text)).unwrap(), text);
        assert_eq!(read_all(zstd_frame(&text)).unwrap(), text);
        assert_eq!(read_all(text.clone()).unwrap(), text);
    }

    #[test]
    fn concatenated_members_and_frames_are_one_stream() {
        assert_eq!(read_all([gzip(b"one\n"), gzip(b""), gzip(b"two\n")].concat()).unwrap(), b"one\ntwo\n");
        let skippable = [0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9];
        let frames = [&skippable[..], &zstd_frame(b"one\n"), &zstd_frame(b"two\n")].concat();
        assert_eq!(read_all(frames).unwrap(), b"one\ntwo\n");
    }

    #[test]
    fn a_cut_archive_is_an_error_wherever_it_is_cut() {
        let text = sample();
        for (whole, format) in [(gzip(&text), "gzip"), (zstd_frame(&text), "zstd")] {
            let cuts = (4..40).chain((40..whole.len()).step_by(997)).chain(whole.len() - 12..whole.len());
            for cut in cuts {
                match read_all(whole[..cut].to_vec()) {
                    Err(DataError::Truncated { path, format: f, .. }) => {
                        assert_eq!((path.as_path(), f), (Path::new("in"), format));
                    }
                    other => panic!("{format} cut at {cut} of {}: {:?}", whole.len(), other.map(|b| b.len())),
                }
            }
        }
        // The second of two members.
        let cut = [gzip(b"one\n"), gzip(b"two\n")[..9].to_vec()].concat();
        assert!(matches!(read_all(cut), Err(DataError::Truncated { bytes: 4, .. })));
    }

    #[test]
    fn a_damaged_archive_is_an_error() {
        let text = sample();
        for (mut bytes, at) in [(gzip(&text), 5_000), (zstd_frame(&text), 5_000)] {
            for byte in &mut bytes[at..at + 64] {
                *byte ^= 0x5a;
            }
            let error = read_all(bytes).map(|out| out.len()).unwrap_err();
            assert!(matches!(error, DataError::Corrupt { .. } | DataError::Truncated { .. }), "{error}");
        }
        // A wrong checksum at the end, and something else after a whole member.
        let mut bytes = gzip(&text);
        let at = bytes.len() - 6;
        bytes[at] ^= 1;
        assert!(matches!(read_all(bytes), Err(DataError::Corrupt { .. })));
        assert!(read_all([gzip(b"one\n"), b"plain text".to_vec()].concat()).is_err());
    }

    #[test]
    fn lines_end_in_lf_or_crlf_or_with_the_file() {
        let input = Input::from_reader("in", Cursor::new(b"a\r\n\nb\rc\n\r\nlast\r".to_vec())).unwrap();
        let mut lines = Lines::new(input);
        let (mut line, mut all) = (Vec::new(), Vec::new());
        while lines.read(&mut line).unwrap() == LineRead::Line {
            all.push((lines.line(), String::from_utf8(line.clone()).unwrap()));
        }
        let want = [(1, "a"), (2, ""), (3, "b\rc"), (4, ""), (5, "last\r")];
        assert_eq!(all, want.map(|(n, s)| (n, s.to_owned())));
        assert_eq!(lines.read(&mut line).unwrap(), LineRead::End);
    }

    #[test]
    fn a_line_without_end_is_cut_off_and_the_next_one_is_whole() {
        for extra in [0, 1, 2, 3 * LINE_LIMIT] {
            let text = [vec![b'x'; LINE_LIMIT + extra], b"\nnext\n".to_vec()].concat();
            let mut lines = Lines::new(Input::from_reader("in", Cursor::new(text)).unwrap());
            let mut line = Vec::new();
            let want = if extra == 0 { LineRead::Line } else { LineRead::TooLong };
            assert_eq!(lines.read(&mut line).unwrap(), want);
            assert!(line.len() <= LINE_LIMIT + 1);
            assert_eq!((lines.read(&mut line).unwrap(), lines.line(), &line[..]), (LineRead::Line, 2, &b"next"[..]));
        }
    }

    #[test]
    fn missing_files_show_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&first, "x").unwrap();
        assert!(matches!(Inputs::files::<&Path>(&[]), Err(DataError::NoInput)));
        match Inputs::files(&[&first, &second]) {
            Err(DataError::Open { path, .. }) => assert_eq!(path, second),
            other => panic!("{:?}", other.map(|_| ())),
        }
        assert!(matches!(Inputs::files(&[dir.path()]), Err(DataError::Read { .. })));
    }
}
