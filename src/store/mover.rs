//! The thread that moves superblocks and directories to huge pages when growth has gone by.
//!
//! The first use of a huge page takes long where the system has to find it, and moving to one stops whoever uses a page for
//! the first time meanwhile. So neither is done while rows come: a superblock is moved once all of it is in memory. The
//! segments of directories lie in the process's heap. What lies beside them there moves with them, unharmed.

use super::Inner;
use super::bell::Bell;
use crate::config::HugePages;
use crate::error::ConfigError;
use crate::region::{self, HUGE_PAGE};
use crate::sync::thread::{Builder, JoinHandle};
use crate::sync::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// No superblock is taken for so long: growth has gone by. It is not waited for longer than that.
const QUIET: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);
/// Times that a move has taken, of rest after it.
const RESTS: u32 = 4;

/// A running thread. It ends when this is dropped.
pub(super) struct Mover {
    bell: Arc<Bell>,
    /// How many superblocks had been taken when it was woken last.
    seen: AtomicU64,
    thread: Option<JoinHandle<()>>,
}

impl Mover {
    pub(super) fn start(inner: &Arc<Inner>) -> Result<Mover, ConfigError> {
        let bell = Arc::new(Bell::new());
        let (theirs, inner) = (Arc::clone(&bell), Arc::clone(inner));
        let builder = Builder::new().name("dimslab-mover".to_owned());
        let thread = builder.spawn(move || run(&inner, &theirs)).map_err(ConfigError::Thread)?;
        Ok(Mover { bell, seen: AtomicU64::new(0), thread: Some(thread) })
    }

    /// Wakes the thread if superblocks were taken since the last call.
    #[inline]
    pub(super) fn notice(&self, inner: &Inner) {
        let taken = inner.superblocks.taken();
        // Relaxed: a call too many, or one that the next makes up for.
        if self.seen.load(Ordering::Relaxed) != taken {
            self.seen.store(taken, Ordering::Relaxed);
            self.bell.ring();
        }
    }
}

fn run(inner: &Inner, bell: &Bell) {
    // Moves one and rests. Returns false if the thread is to end. What could not be moved is tried again when more
    // superblocks have been taken.
    let go_on = |moved: &dyn Fn() -> io::Result<bool>| {
        let begin = Instant::now();
        !(moved().unwrap_or(false) && bell.rest(Instant::now() + begin.elapsed() * RESTS).end)
    };
    while bell.hear() && wait_for_growth(inner, bell) {
        let superblock = |number| inner.superblocks.move_to_huge_page(number, &inner.reclaimer.pin());
        let superblocks = if inner.config.huge_pages == HugePages::Later { inner.superblocks.numbers() } else { 0..0 };
        // Directories first: they are a small part of the bytes and a large one of what a look-up reads.
        let all = huge_pages_of_directories(inner).into_iter().all(|page| go_on(&|| region::collapse(page)))
            && superblocks.into_iter().all(|number| go_on(&|| superblock(number)));
        if !all {
            return;
        }
    }
}

/// Where memory begins that directories take an eighth of and that one huge page can hold. Only so much, because segments lie
/// wherever the heap has room for them: in a process whose heap is in pieces no page might be theirs by half.
fn huge_pages_of_directories(inner: &Inner) -> Vec<usize> {
    let mut taken = BTreeMap::new();
    for table in &inner.tables {
        let mut tag = Some(0);
        while let Some(at) = tag {
            let (address, bytes, next) = table.directory.memory_of(at, &inner.reclaimer.pin());
            // A segment is small beside a huge page: that some lie in two of them does not matter.
            *taken.entry(address & !(HUGE_PAGE as usize - 1)).or_insert(0) += bytes;
            tag = next;
        }
    }
    taken.into_iter().filter(|&(_, bytes)| bytes >= HUGE_PAGE / 8).map(|(page, _)| page).collect()
}

/// Returns false if the thread is to end.
fn wait_for_growth(inner: &Inner, bell: &Bell) -> bool {
    let begin = Instant::now();
    loop {
        let taken = inner.superblocks.taken();
        if bell.rest(Instant::now() + QUIET).end {
            return false;
        }
        if inner.superblocks.taken() == taken || begin.elapsed() > PATIENCE {
            return true;
        }
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.bell.end();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}
