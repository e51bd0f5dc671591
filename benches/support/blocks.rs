//! Blocks of 64 bytes, each peer's behind the same two calls.

use crossbeam_queue::ArrayQueue;
use dimslab::bench::{Call, Pool};
use std::alloc::{GlobalAlloc, Layout};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

const BYTES: usize = 64;
const LAYOUT: Layout = match Layout::from_size_align(BYTES, 8) {
    Ok(layout) => layout,
    Err(_) => panic!("64 bytes are a layout"),
};

/// Hands out blocks to several threads.
pub(crate) trait Peer: Sync {
    /// One thread's way to it.
    type Hand<'p>: Hand
    where
        Self: 'p;

    fn hand(&self) -> Self::Hand<'_>;

    /// Bytes for blocks that were there before the first one was asked for.
    fn made_before(&self) -> u64 {
        0
    }
}

pub(crate) trait Hand {
    /// A block, its first word written.
    fn alloc(&mut self, stamp: u32) -> usize;
    /// Frees a block that this or another hand took.
    fn free(&mut self, block: usize);
    /// Comes every 64 operations.
    fn pause(&mut self) {}
}

/// When dimslab's hand gives back what it has.
#[derive(Clone, Copy)]
pub(crate) enum Mode {
    Kept,
    Call,
    Retire,
}

pub(crate) struct Dimslab {
    pool: Pool,
    mode: Mode,
}

impl Dimslab {
    pub(crate) fn new(mode: Mode) -> Result<Dimslab, Box<dyn std::error::Error>> {
        Ok(Dimslab { pool: Pool::new(BYTES, 4096)?, mode })
    }
}

impl Peer for Dimslab {
    type Hand<'p> = DimslabHand<'p>;

    fn hand(&self) -> DimslabHand<'_> {
        DimslabHand { peer: self, call: self.pool.call(), retired: Vec::new() }
    }
}

pub(crate) struct DimslabHand<'p> {
    peer: &'p Dimslab,
    call: Call<'p>,
    retired: Vec<u32>,
}

impl Hand for DimslabHand<'_> {
    #[inline]
    fn alloc(&mut self, stamp: u32) -> usize {
        self.call.alloc(stamp).expect("4,096 superblocks are enough") as usize
    }

    #[inline]
    fn free(&mut self, block: usize) {
        match self.peer.mode {
            Mode::Retire => self.retired.push(block as u32),
            Mode::Kept | Mode::Call => self.call.free(block as u32),
        }
    }

    fn pause(&mut self) {
        match self.peer.mode {
            Mode::Kept => self.call.repin(),
            Mode::Call => self.call = self.peer.pool.call(),
            Mode::Retire => {
                self.call.retire(&self.retired);
                self.retired.clear();
                self.call = self.peer.pool.call();
            }
        }
    }
}

/// An allocator for everything.
pub(crate) struct Global<A>(pub(crate) A);

impl<A: GlobalAlloc + Sync> Peer for Global<A> {
    type Hand<'p>
        = &'p A
    where
        A: 'p;

    fn hand(&self) -> &A {
        &self.0
    }
}

impl<A: GlobalAlloc> Hand for &A {
    #[inline]
    fn alloc(&mut self, stamp: u32) -> usize {
        // SAFETY: the layout is not of no bytes.
        let block = unsafe { GlobalAlloc::alloc(*self, LAYOUT) };
        assert!(!block.is_null(), "out of memory");
        // SAFETY: the block is 64 bytes, aligned to 8. Volatile, so that a pair is not optimised away.
        unsafe { block.cast::<u32>().write_volatile(stamp) };
        block as usize
    }

    #[inline]
    fn free(&mut self, block: usize) {
        // SAFETY: `block` is from `alloc`, of the same allocator and layout, and freed once.
        unsafe { self.dealloc(block as *mut u8, LAYOUT) };
    }
}

/// sharded-slab, which is given the whole value.
#[derive(Default)]
pub(crate) struct Sharded(sharded_slab::Slab<[u32; BYTES / 4]>);

impl Peer for Sharded {
    type Hand<'p> = &'p Sharded;

    fn hand(&self) -> &Sharded {
        self
    }
}

impl Hand for &Sharded {
    fn alloc(&mut self, stamp: u32) -> usize {
        self.0.insert([stamp; BYTES / 4]).expect("room in the slab")
    }

    fn free(&mut self, block: usize) {
        assert!(self.0.remove(block), "freed twice");
    }
}

/// A slab behind a lock, which is given the whole value.
#[derive(Default)]
pub(crate) struct Locked(Mutex<slab::Slab<[u32; BYTES / 4]>>);

impl Peer for Locked {
    type Hand<'p> = &'p Locked;

    fn hand(&self) -> &Locked {
        self
    }
}

impl Hand for &Locked {
    fn alloc(&mut self, stamp: u32) -> usize {
        self.0.lock().expect("nobody panics under the lock").insert([stamp; BYTES / 4])
    }

    fn free(&mut self, block: usize) {
        self.0.lock().expect("nobody panics under the lock").remove(block);
    }
}

/// A queue of the indices of free blocks, as many as there will ever be.
pub(crate) struct Indices {
    free: ArrayQueue<u32>,
    blocks: Box<[[AtomicU32; BYTES / 4]]>,
}

impl Indices {
    pub(crate) fn new(blocks: usize) -> Indices {
        let free = ArrayQueue::new(blocks);
        for index in 0..blocks as u32 {
            free.push(index).expect("made for all of them");
        }
        let blocks = (0..blocks).map(|_| [const { AtomicU32::new(0) }; BYTES / 4]).collect();
        Indices { free, blocks }
    }
}

impl Peer for Indices {
    type Hand<'p> = &'p Indices;

    fn hand(&self) -> &Indices {
        self
    }

    fn made_before(&self) -> u64 {
        (self.blocks.len() * (BYTES + 16)) as u64
    }
}

impl Hand for &Indices {
    fn alloc(&mut self, stamp: u32) -> usize {
        let index = self.free.pop().expect("blocks enough") as usize;
        self.blocks[index][0].store(stamp, Ordering::Relaxed);
        index
    }

    fn free(&mut self, block: usize) {
        self.free.push(block as u32).expect("freed twice");
    }
}
