//! Blocks of rows read on one thread while another does something with those before.

use std::sync::mpsc::{channel, sync_channel};
use std::thread;

use super::SnapshotError;
use super::block::RowBlock;

/// Blocks that wait between the two.
const WAITING: usize = 2;

/// Lets other threads go first wherever there are not processors for all.
pub(super) fn step_back() {
    #[cfg(target_os = "linux")]
    // SAFETY: a call about the calling thread, which 0 means on Linux; no memory is involved. If it is refused, so be it.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 10);
    }
}

/// Gives `take`, on a thread of its own, every block that `next` fills, in order, until that says that there are no more.
/// `begin` comes first there. Memory is that of a few blocks.
pub(super) fn pass_on(
    mut next: impl FnMut(&mut RowBlock) -> Result<bool, SnapshotError>,
    begin: impl FnOnce() + Send,
    mut take: impl FnMut(&RowBlock) -> Result<(), SnapshotError> + Send,
) -> Result<(), SnapshotError> {
    let (full, filled) = sync_channel::<RowBlock>(WAITING);
    let (empty, emptied) = channel();
    for _ in 0..WAITING + 2 {
        // Its receiver is here.
        let _ = empty.send(RowBlock::default());
    }
    thread::scope(|scope| {
        let taker = thread::Builder::new().name("dimslab-blocks".to_owned()).spawn_scoped(scope, move || {
            begin();
            for block in filled {
                take(&block)?;
                // After the last block nobody wants it back.
                let _ = empty.send(block);
            }
            Ok(())
        });
        let taker = taker.map_err(|error| SnapshotError::Other(format!("cannot start a thread: {error}")))?;
        let mut give = || {
            // No block comes back, and none is taken, when the taker has met an error. That is reported then.
            while let Ok(mut block) = emptied.recv() {
                if !next(&mut block)? || full.send(block).is_err() {
                    break;
                }
            }
            Ok(())
        };
        let given = give();
        drop(full);
        let taken = taker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        taken.and(given)
    })
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    fn numbered(last: u64) -> impl FnMut(&mut RowBlock) -> Result<bool, SnapshotError> {
        let mut number = 0;
        move |block| {
            number += 1;
            block.clear();
            block.keys.push(number);
            Ok(number <= last)
        }
    }

    #[test]
    fn all_blocks_come_in_order() {
        for last in [0, 1, 3, 100] {
            let mut keys = Vec::new();
            let take = |block: &RowBlock| {
                keys.extend_from_slice(&block.keys);
                Ok(())
            };
            pass_on(numbered(last), || {}, take).unwrap();
            assert!(keys.into_iter().eq(1..=last));
        }
    }

    #[test]
    fn errors_of_either_end_both() {
        let broken = || SnapshotError::Other("broken".to_owned());
        let mut taken = 0;
        let take = |_: &RowBlock| {
            taken += 1;
            if taken == 3 { Err(broken()) } else { Ok(()) }
        };
        assert_eq!(pass_on(numbered(u64::MAX), || {}, take).unwrap_err().to_string(), "broken");
        assert_eq!(taken, 3);

        let (mut good, mut taken) = (numbered(5), 0);
        let next = |block: &mut RowBlock| if good(block)? { Ok(true) } else { Err(broken()) };
        let take = |_: &RowBlock| {
            taken += 1;
            Ok(())
        };
        assert_eq!(pass_on(next, || {}, take).unwrap_err().to_string(), "broken");
        assert_eq!(taken, 5);
    }
}
