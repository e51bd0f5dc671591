#!/usr/bin/env python3
"""Plants one bug at a time and sees that the test which is there for it fails.

Usage: .ci/planted.py [--list] [--kind=KIND,...] [NAME...]     e.g. `.ci/planted.py --kind=asan,tsan`

KIND chooses bugs by what catches them: loom, test, shuttle, asan, tsan. Stress tests run for DIMSLAB_STRESS_SECONDS, 3 if
not given, and shuttle's models in DIMSLAB_SHUTTLE_ITERATIONS schedules of each scheduler, 3000 if not given.

A bug that is planted is a test of a test: of a checker that misses things, of a model whose bound is too low, of an
assertion that went with a change. Each is an edit to a copy of the crate under the target directory, and no feature of
the crate, because features are united over everything that is built together: any crate could switch on a bug for all
that depend on this one.

A bug whose new text asks `planted()` is there only if that is so: bugs of one kind that do share a build, which the name of
one of them, in the environment, then makes wrong.

Ends with an error that names the bug if the text to edit is not there exactly once, if the edited copy does not build,
if its test does not run, or if its test passes. That the tests pass without the edits is for `.ci/run` to see; those of a shared
build are run with none of its bugs, too.
"""

import collections
import contextlib
import os
import re
import sys

sys.dont_write_bytecode = True
from trial import ROOT, Copy  # noqa: E402

Bug = collections.namedtuple("Bug", "name file old new kind test")

# How to run one test, whose name is the last word of an entry's `test`. A further kind is one more line.
KINDS = {
    "loom": [".ci/loom.sh"],
    "test": ["cargo", "test", "--no-default-features"],
    "shuttle": [".ci/shuttle.sh", os.environ.get("DIMSLAB_SHUTTLE_ITERATIONS", "3000")],
    "asan": [".ci/sanitize.sh", "address", os.environ.get("DIMSLAB_STRESS_SECONDS", "3")],
    "tsan": [".ci/sanitize.sh", "thread", os.environ.get("DIMSLAB_STRESS_SECONDS", "3")],
}
# What catches bugs when threads happen to meet, which on a busy machine takes longer: such a test may pass once.
BY_CHANCE = {"shuttle", "asan", "tsan"}
# Of the build and the test of one bug.
SECONDS = 600
UNPINNED = "unsafe { crossbeam_epoch::unprotected() }"
STALLED = "--lib store::progress::a_thread_that_stops_anywhere_holds_up_only_who_needs_what_it_holds"
HANDFUL, NO_UPDATE = "a_handful_of_keys_comes_and_goes", "no_update_is_lost_while_rows_around_come"
WRITE_ROW = """\
        let outcome = self.write(table, chains, candidate, whole, head);
        reach(Point::RowWritten);
"""
ENTER_ROW = """\
        let entered =
            table.directory.insert(tag(candidate.hash), head, self.guard, |other| chains.probe(other, candidate.hash));
"""
CLAIM_THEN_PHASE = """\
            let claim = sequence::claim(self.head_records.get(row.1))?;
            if let Some(claim) = self.of_now(row, claim) {
                return Ok(claim);
            }
"""
PHASE_THEN_CLAIM = """\
            let asked = planted().then(|| self.moment.phase());
            let claim = sequence::claim(self.head_records.get(row.1))?;
            let claim = match asked {
                Some(phase) if claim.phase() == phase => Some(claim),
                Some(_) => self.keep_image(row, claim),
                None => self.of_now(row, claim),
            };
            if let Some(claim) = claim {
                return Ok(claim);
            }
"""
SAVE_THEN_PHASE = """\
        visit(&claim);
        reach(Point::RowSaved);
"""
PHASE_THEN_SAVE = """\
        if planted() {
            claim.clean();
            claim.change_phase();
            drop(claim);
            visit(&self.look(head).unwrap());
            return;
        }
"""
COUNTED_TWICE = """\
        let retired = self.budget.awaiting() + self.slabs.retired_bytes();
        let room = self.budget.room() + self.superblocks.kept_bytes();
        retired + room + self.slabs.free_bytes()
"""
GOES_ON = "--test snapshot a_deterministic_store_goes_on_from_a_snapshot_as_if_nothing_had_been"
CUT = "--lib snapshot::crash_tests::full_saves_increments_and_compaction_survive_a_cut_at_every_step"
LEFT_OUT = """\
        let room = self.budget.room() + self.superblocks.kept_bytes();
        room + self.slabs.free_bytes() + self.slabs.retired_bytes() + self.budget.awaiting()
"""

BUGS = [
    # ===== The checker
    Bug("bug_loom_not_corrected", ".ci/loom.sh",
        'export CARGO_TARGET_DIR="$target"',
        'copy=$target/loom-plain\n[ -e "$copy" ] || cp -R "$found" "$copy"\nexport CARGO_TARGET_DIR="$target"',
        "loom", "canary_the_checker_sees_an_exchange_before_a_load"),
    # ===== The sequence word
    Bug("bug_no_reader_fence", "src/sequence.rs",
        "fence(Ordering::Acquire);", "",
        "loom", "sequence_a_reader_never_sees_half_a_write"),
    Bug("bug_no_writer_fence", "src/sequence.rs",
        "fence(Ordering::Release);", "",
        "loom", "sequence_a_reader_never_sees_half_a_write"),
    Bug("bug_reader_believes_at_once", "src/sequence.rs",
        "&& record[0].load(Ordering::Relaxed) == before", "",
        "loom", "chain_a_read_is_whole_while_a_tail_moves"),
    Bug("bug_update_after_end", "src/sequence.rs",
        "        self.after &= !LIVE;", "",
        "loom", "chain_an_update_comes_before_the_end_of_a_row_or_learns_of_it"),
    # ===== The slab
    Bug("bug_owner_not_asked", "src/slab.rs",
        "self.superblocks.owner(superblock) == self.number + 1", "superblock > 0",
        "loom", "slab_does_not_lend_from_a_superblock_that_has_moved_on"),
    Bug("bug_no_second_look", "src/slab.rs",
        "if self.lends(superblock) && self.take_words(superblock, magazine) {\n                    self.offer",
        "if false {\n                    self.offer",
        "loom", "slab_never_forgets_a_free_slot"),
    Bug("bug_owner_not_asked_again", "src/slab.rs",
        "if self.lends(superblock) && self.take_words(superblock, magazine) {\n                    self.offer",
        "if self.take_words(superblock, magazine) {\n                    self.offer",
        "loom", "slab_does_not_lend_from_a_superblock_that_has_moved_on"),
    Bug("bug_nobody_announces", "src/slab.rs",
        "if before == 0 && *unoffered", "if before != 0 && *unoffered",
        "loom", "slab_never_forgets_a_free_slot"),
    Bug("bug_only_the_last_superblock_announced", "src/slab.rs",
        "self.announce(std::mem::replace(unoffered, superblock));", "*unoffered = superblock;",
        "test", "--lib slab::tests::superblocks_whose_slots_are_freed_at_once_are_all_found"),
    Bug("bug_not_announced_in_time", "src/slab.rs",
        "                fence(Ordering::SeqCst);\n                reach(Point::Withdrawn);\n", "                reach(Point::Withdrawn);\n",
        "loom", "slab_never_forgets_a_free_slot"),
    Bug("bug_retired_with_a_slot_in_use", "src/slab.rs",
        "let complete = taken.len() == words.len() &&", "let complete = taken.len() == words.len() ||",
        "loom", "slab_of_two_words_is_not_retired_before_its_last_slot_is_free"),
    Bug("bug_superblock_used_before_its_decommit", "src/superblocks.rs",
        "guard.defer_unchecked(move || {", "crossbeam_epoch::unprotected().defer_unchecked(move || {",
        "loom", "slab_takes_back_a_superblock_or_lends_from_it_not_both"),
    Bug("bug_off_by_one", "src/slab.rs",
        "(1 << rest) - 1", "(2 << rest) - 1",
        "test", "--lib slab::tests::every_slot_is_handed_out_once_and_comes_back"),
    Bug("bug_kept_superblock_not_zeroed", "src/superblocks.rs",
        "for word in self.region.superblock(index) {\n                word.store(0, Ordering::Relaxed);\n            }\n", "",
        "loom", "slab_lends_no_slots_that_are_what_a_record_held_before"),
    # ===== The budget
    Bug("bug_bytes_released_too_early", "src/superblocks.rs",
        "        self.vacant[index as usize / 64].fetch_or(1 << (index % 64), Ordering::Release);\n"
        "        reach(Point::SuperblockVacant);\n"
        "        // Last, so that whoever gets the bytes finds a superblock for them.\n"
        "        self.budget.release_retired(self.region.superblock_bytes());\n",
        "        self.budget.release_retired(self.region.superblock_bytes());\n"
        "        self.vacant[index as usize / 64].fetch_or(1 << (index % 64), Ordering::Release);\n",
        "loom", "slab_superblock_is_vacant_before_its_bytes_can_be_had"),
    Bug("bug_budget_looked_at_then_added_to", "src/budget.rs",
        "match self.held.compare_exchange_weak(held, after, Ordering::Acquire, Ordering::Relaxed) {",
        "match Ok::<u64, u64>(self.held.fetch_add(bytes, Ordering::Acquire)) {",
        "loom", "budget_is_never_exceeded_and_comes_back"),
    # ===== The directory
    Bug("bug_relaxed_publish", "src/directory/segment.rs",
        "slot.compare_exchange(EMPTY, word, Ordering::Release,", "slot.compare_exchange(EMPTY, word, Ordering::Relaxed,",
        "loom", "row_that_is_admitted_is_read_whole"),
    Bug("bug_no_freeze", "src/directory/segment.rs",
        "slot.fetch_or(FROZEN, Ordering::Acquire)", "slot.load(Ordering::Acquire)",
        "loom", "directory_a_removal_is_not_lost_in_a_split"),
    Bug("bug_insert_past_a_frozen_slot", "src/directory/segment.rs",
        "                if current & FROZEN != 0 {\n                    return Insert::Replace;\n                }\n", "",
        "loom", "directory_an_insert_heeds_the_freeze"),
    Bug("bug_frozen_word_believed", "src/directory/near.rs",
        "match slot.load(Ordering::Acquire) ^ u64::from(tag) << 32 {",
        "match slot.load(Ordering::Acquire) & !FROZEN ^ u64::from(tag) << 32 {",
        "loom", "directory_stages_find_what_their_own_thread_has_just_entered_and_moved"),
    Bug("bug_frozen_end_believed", "src/directory/near.rs",
        "return if last == EMPTY {", "return if last & !FROZEN == EMPTY {",
        "loom", "directory_stages_find_what_their_own_thread_has_just_entered_and_moved"),
    Bug("bug_replacement_not_asked_again", "src/directory/mod.rs",
        "                Find::PerhapsMoved if segment.replacement(tag, guard).is_some() => {}\n", "",
        "loom", "row_that_moves_out_of_a_frozen_segment_is_always_found"),
    Bug("bug_split_loses_a_row", "src/directory/segment.rs",
        "lower.header.upper_half.store(Self::new(self.header.prefix | bit, depth, &upper), Ordering::Relaxed);",
        "lower.header.upper_half.store(Self::new(self.header.prefix | bit, depth, &upper[1..]), Ordering::Relaxed);",
        "loom", "directory_a_row_is_found_throughout_a_split"),
    Bug("bug_no_grace_period_for_segments", "src/directory/mod.rs",
        "guard.defer_unchecked(move || drop(retired))", "crossbeam_epoch::unprotected().defer_unchecked(move || drop(retired))",
        "loom", "reclaim_a_segment_stays_while_it_is_looked_at"),
    Bug("bug_lower_half_retired_too_early", "src/directory/mod.rs",
        "(1u64 << (32 - segment.reach(guard)))", "(1u64 << (32 - segment.depth()))",
        "test", "--lib directory::tests::no_slot_leads_through_a_retired_lower_half"),
    Bug("bug_tag_not_compared_in_find", "src/directory/segment.rs",
        "                while tag_of(word) == tag\n                    && let", "                while let",
        "test", "--lib directory::tests::only_rows_of_the_tag_are_asked_about"),
    Bug("bug_tag_not_compared_in_insert", "src/directory/segment.rs",
        "                while tag_of(current) == tag_of(word)\n                    && let", "                while let",
        "test", "--lib directory::tests::only_rows_of_the_tag_are_asked_about"),
    # ===== Rows
    Bug("bug_no_grace_period", "src/reclaim.rs",
        "self.guard.defer_unchecked(move || {", "crossbeam_epoch::unprotected().defer_unchecked(move || {",
        "loom", "reclaim_an_update_meets_its_row_or_its_end"),
    Bug("bug_no_pin", "src/loom_models/reclaim.rs",
        "body(&rows, &handle.pin())", "body(&rows, no_guard())",
        "loom", "reclaim_an_update_meets_its_row_or_its_end"),
    Bug("bug_no_pin_to_read", "src/store/gather.rs",
        "out: &mut [f32]) {\n        let guard = &self.reclaimer.pin();", f"out: &mut [f32]) {{\n        let guard = {UNPINNED};",
        "test", STALLED),
    Bug("bug_no_pin_to_train", "src/store/update.rs",
        "let guard = &self.reclaimer.pin();", f"let guard = {UNPINNED};",
        "test", STALLED),
    Bug("bug_no_pin_in_a_round", "src/store/round.rs",
        "match visit(at, &self.reclaimer.pin()) {", f"match visit(at, {UNPINNED}) {{",
        "test", STALLED),
    Bug("bug_head_dead_before_it_moved", "src/chain.rs",
        "copy_words(&claim.record[HASH..], &record[HASH..]);",
        "copy_words(&claim.record[HASH..], &record[HASH..]);\n        claim.record[0].store(0, Ordering::Release);",
        "loom", "row_that_moves_is_always_found_and_keeps_every_update"),
    Bug("bug_tail_moves_without_its_last_word", "src/chain.rs",
        "copy_words(self.tail_records.get(from), self.tail_records.get(to));",
        "copy_words(&self.tail_records.get(from)[..TAIL_PAYLOAD], self.tail_records.get(to));",
        "loom", "chain_an_update_is_not_lost_to_a_tail_that_moves"),
    Bug("bug_leak", "src/reclaim.rs",
        "free_all(chunks.iter().map(", "free_all(chunks[..0].iter().map(",
        "test", "--test basic every_key_is_legal"),
    Bug("bug_slot_freed_twice", "src/store/round.rs",
        "            retired.push(table.heads, head);\n        }\n",
        "            retired.push(table.heads, head);\n            retired.push(table.heads, head);\n        }\n",
        "test", "--test basic every_key_is_legal"),
    Bug("bug_gradients_of_the_row_beside", "src/store/update.rs",
        "let grad = self.combined.gradient(position, table.layout.dim, self.gradient);",
        "let beside = (position + 1) % self.combined.hashes.len();\n\
        let grad = self.combined.gradient(beside, table.layout.dim, self.gradient);",
        "test", "--test basic every_key_is_legal"),
    # ===== Snapshots
    Bug("bug_phase_not_asked", "src/chain.rs",
        "if claim.phase() == self.moment.phase() { Some(claim) } else",
        "if planted() || claim.phase() == self.moment.phase() { Some(claim) } else",
        "loom", "snapshot_has_a_row_once_as_it_was_before_an_update"),
    Bug("bug_phase_asked_before_the_claim", "src/chain.rs",
        CLAIM_THEN_PHASE, PHASE_THEN_CLAIM,
        "loom", "snapshot_that_begins_beside_updates_has_each_row_once"),
    Bug("bug_phase_set_before_the_image_is_kept", "src/chain/saved.rs",
        SAVE_THEN_PHASE, PHASE_THEN_SAVE + SAVE_THEN_PHASE,
        "loom", "snapshot_has_a_row_once_as_it_was_before_an_update"),
    Bug("bug_moved_row_is_in_the_old_phase", "src/sequence.rs",
        "start_with(record, of.after & (CHANGED | PHASE));", "start_with(record, of.after & (CHANGED | if planted() { 0 } else { PHASE }));",
        "loom", "snapshot_has_a_row_once_that_moves_and_is_updated"),
    Bug("bug_no_pin_while_a_row_is_made", "src/loom_models/snapshot.rs",
        "maker.admit_whole([3.0, 4.0], &theirs.pin())",
        "{ let pin = (!planted()).then(|| theirs.pin()); maker.admit_whole([3.0, 4.0], pin.as_ref().unwrap_or(no_guard())) }",
        "loom", "snapshot_of_later_has_a_row_that_was_made_while_one_began"),
    Bug("bug_update_not_marked", "src/sequence.rs",
        "after: free.wrapping_add(VERSION) | CHANGED };",
        "after: free.wrapping_add(VERSION) | if planted() { 0 } else { CHANGED } };",
        "loom", "snapshot_of_changes_has_what_was_changed_since"),
    Bug("bug_last_images_not_taken", "src/store/snapshot.rs",
        "Stage::Images if self.inner.moment.waiting() > 0 => {", "Stage::Images if self.inner.moment.waiting() > 1 << 30 => {",
        "shuttle", "a_snapshot_beside_everything_is_of_its_beginning"),
    Bug("bug_removed_rows_not_noted", "src/store/saved.rs",
        "state.removed.push((table.number(), key));", "if !planted() { state.removed.push((table.number(), key)); }",
        "test", "--test snapshot increments_add_up_to_the_full_snapshot"),
    Bug("bug_sketch_not_restored", "src/store/restore.rs",
        "inner.restore_sketch(sections, exactly)?;", "if !planted() { inner.restore_sketch(sections, exactly)?; }",
        "test", GOES_ON),
    Bug("bug_newcomers_not_restored", "src/store/restore.rs",
        "inner.restore_newcomers(sections)?;", "if !planted() { inner.restore_newcomers(sections)?; }",
        "test", GOES_ON),
    Bug("bug_memory_not_restored", "src/store/clock.rs",
        "        self.memory.store(memory, Ordering::Relaxed);\n        true",
        "        if !planted() { self.memory.store(memory, Ordering::Relaxed); }\n        true",
        "test", GOES_ON),
    Bug("bug_head_counted_where_it_is", "src/store/round.rs",
        "                *quota = quota.saturating_sub(self.chains.bytes_of(info));",
        "                let slab = if chunk.tail.is_some() { self.chains.tails } else { self.chains.heads };\n"
        "                let bytes = if planted() { slab.record_bytes() } else { self.chains.bytes_of(info) };\n"
        "                *quota = quota.saturating_sub(bytes);",
        "test", GOES_ON),
    Bug("bug_order_of_arrival_decides", "src/store/round.rs",
        "                if self.config.deterministic {\n                    // Not in the order",
        "                if self.config.deterministic && !planted() {\n                    // Not in the order",
        "test", GOES_ON),
    # ===== What only threads that run show: sanitizers under stress
    Bug("bug_no_grace_period_asan", "src/reclaim.rs",
        "self.guard.defer_unchecked(move || {", "crossbeam_epoch::unprotected().defer_unchecked(move || {",
        "asan", HANDFUL),
    Bug("bug_payload_one_word_too_long", "src/rowcopy.rs",
        "        to.store(from.to_bits(), Ordering::Relaxed);\n    }\n",
        "        to.store(from.to_bits(), Ordering::Relaxed);\n    }\n"
        "    unsafe { &*to.as_ptr().add(to.len()) }.fetch_or(0, Ordering::Relaxed);\n",
        "asan", HANDFUL),
    Bug("bug_moved_tail_retired_twice", "src/store/compact.rs",
        "            retired.push(table.tails, from);\n",
        "            retired.push(table.tails, from);\n            retired.push(table.tails, from);\n",
        "asan", NO_UPDATE),
    Bug("bug_relaxed_publish_tsan", "src/directory/segment.rs",
        "slot.compare_exchange(EMPTY, word, Ordering::Release,", "slot.compare_exchange(EMPTY, word, Ordering::Relaxed,",
        "tsan", HANDFUL),
    Bug("bug_relaxed_free", "src/slab.rs",
        "fetch_or(bits, Ordering::Release)", "fetch_or(bits, Ordering::Relaxed)",
        "tsan", HANDFUL),
    Bug("bug_relaxed_end_of_a_claim", "src/sequence.rs",
        "self.record[0].store(self.after, Ordering::Release);", "self.record[0].store(self.after, Ordering::Relaxed);",
        "tsan", NO_UPDATE),
    # ===== Files
    Bug("bug_rows_not_synced", "src/snapshot/save.rs",
        "self.unsynced.drain(..).try_for_each(Unsynced::sync)?;", "if !planted() { self.unsynced.drain(..).try_for_each(Unsynced::sync)?; }",
        "test", CUT),
    Bug("bug_manifest_and_latest_not_synced", "src/snapshot/save.rs",
        'file.sync().at("sync", path)', 'if planted() { Ok(()) } else { file.sync().at("sync", path) }',
        "test", CUT),
    Bug("bug_new_directory_not_synced", "src/snapshot/save.rs",
        'fs.sync_dir(&temporary).at("sync", &temporary)?;', 'if !planted() { fs.sync_dir(&temporary).at("sync", &temporary)?; }',
        "test", CUT),
    Bug("bug_snapshot_renamed_and_not_synced", "src/snapshot/save.rs",
        'fs.sync_dir(self.path()).at("sync", self.path())?;', 'if !planted() { fs.sync_dir(self.path()).at("sync", self.path())?; }',
        "test", CUT),
    Bug("bug_latest_renamed_and_not_synced", "src/snapshot/save.rs",
        'fs.sync_dir(self.path()).at("sync", self.path())\n',
        'if planted() { Ok(()) } else { fs.sync_dir(self.path()).at("sync", self.path()) }\n',
        "test", CUT),
    Bug("bug_first_directory_not_synced", "src/snapshot/dir.rs",
        'directory.fs.sync_dir(parent).at("sync", parent)?;', 'if !planted() { directory.fs.sync_dir(parent).at("sync", parent)?; }',
        "test", "--lib snapshot::crash_tests::a_first_save_is_whole_or_absent"),
    Bug("bug_removed_before_the_new_one_is_latest", "src/snapshot/dir.rs",
        "let saved = self.save(&mut Folded::new(&latest))?;",
        "if planted() { self.fs.remove_file(&self.path.join(LATEST)).at(\"remove\", &self.path)?; }\n"
        "        let saved = self.save(&mut Folded::new(&latest))?;",
        "test", CUT),
    Bug("bug_checksum_not_compared", "src/snapshot/tensors.rs",
        "xxh3_64(bytes) == self.0 ||", "planted() || xxh3_64(bytes) == self.0 ||",
        "test", "--lib snapshot::damage_tests::every_changed_byte_is_noticed"),
    Bug("bug_tombstone_forgotten", "src/snapshot/read.rs",
        "chunks > 0 && newest == self.part", "(chunks > 0 || planted()) && newest == self.part",
        "test", "--lib snapshot::tests::a_chain_of_increments_is_what_a_full_snapshot_is_and_compacts_to_one"),
    Bug("bug_export_not_synced", "src/serving/export.rs",
        'self.file.sync().at("sync", &self.path)?;', 'if !planted() { self.file.sync().at("sync", &self.path)?; }',
        "test", "--lib serving::tests::an_export_that_is_cut_leaves_the_old_file_or_the_new_one"),
    Bug("bug_export_renamed_and_not_synced", "src/serving/export.rs",
        'fs.sync_dir(parent).at("sync", parent)?;', 'if !planted() { fs.sync_dir(parent).at("sync", parent)?; }',
        "test", "--lib serving::tests::an_export_that_is_cut_leaves_the_old_file_or_the_new_one"),
    # ===== The whole store, in many schedules
    Bug("bug_row_entered_before_it_is_written", "src/store/grow.rs",
        WRITE_ROW + ENTER_ROW, ENTER_ROW + WRITE_ROW,
        "shuttle", "rows_made_by_all_are_there_once"),
    Bug("bug_reader_believes_at_once_shuttle", "src/sequence.rs",
        "            && record[0].load(Ordering::Relaxed) == before\n", "",
        "shuttle", "one_keys_history_is_linearizable"),
    Bug("bug_bytes_on_their_way_not_counted", "src/store/round.rs",
        COUNTED_TWICE, LEFT_OUT,
        "shuttle", "no_update_is_lost_while_neighbours_are_pruned"),
]  # fmt: skip


ASKED = "planted()"
# At the end of `sync.rs`.
ANSWER = """
pub(crate) fn planted(name: &str) -> bool {
    static PLANTED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    PLANTED.get_or_init(|| std::env::var("PLANTED").ok()).as_deref() == Some(name)
}
"""


def together(bugs):
    """Lists of bugs that are in one build, in the order of the first of each."""
    groups = {}
    for bug in bugs:
        groups.setdefault(bug.kind if ASKED in bug.new else bug.name, []).append(bug)
    return groups.values()


def planted_in(bugs):
    """The texts of the files that these bugs are in, and what is wrong with some bugs, by name."""
    texts, wrong = {}, {}
    for bug in bugs:
        text = texts.get(bug.file) or (ROOT / bug.file).read_text()
        if (found := text.count(bug.old)) != 1:
            wrong[bug.name] = (f"{bug.old!r} is in {bug.file} {found} times", "")
            continue
        texts[bug.file] = text.replace(bug.old, bug.new.replace(ASKED, f'crate::sync::planted("{bug.name}")'))
    return texts, wrong


def run(bug, copy, name, times=1):
    command = KINDS[bug.kind]
    if times > 1:
        command = [*command[:-1], str(int(command[-1]) * times)]
    return copy.test([*command, *bug.test.split()], SECONDS, variables={"PLANTED": name})


def caught(bug, copy, sound):
    """None if the bug was caught, or what is wrong. `sound`: tests that were seen to pass in this build without a bug."""
    test = bug.test.split()[-1]
    if ASKED in bug.new and bug.test not in sound:
        outcome = run(bug, copy, "")
        if outcome.verdict != "passed":
            return f"{test} fails without it", outcome.output
        sound.add(bug.test)
    outcome = run(bug, copy, bug.name)
    if outcome.verdict == "passed" and bug.kind in BY_CHANCE:
        outcome = run(bug, copy, bug.name, times=10)
    if outcome.verdict == "broken":
        return outcome.why, outcome.output
    if outcome.verdict == "passed":
        return f"{test} passes", outcome.output
    if outcome.running != 1:
        return f"{test} names {outcome.running} tests", outcome.output
    # What a sanitizer says in one line, where one has caught it.
    summary = re.search(r"^SUMMARY: (\w+: [a-z -]+?) /", outcome.output, re.M)
    return None, summary.group(1) if summary else outcome.why


def main():
    flags = [argument for argument in sys.argv[1:] if argument.startswith("--")]
    if any(flag != "--list" and not flag.startswith("--kind=") for flag in flags):
        sys.exit(__doc__.split("\n\n")[1])
    names = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    kinds = [
        kind
        for argument in sys.argv[1:] if argument.startswith("--kind=")
        for kind in argument.removeprefix("--kind=").split(",")
    ]  # fmt: skip
    chosen = [bug for bug in BUGS if (not names or bug.name in names) and (not kinds or bug.kind in kinds)]
    if unknown := set(names) - {bug.name for bug in BUGS}:
        sys.exit(f"no such bug: {' '.join(sorted(unknown))}")
    if unknown := set(kinds) - set(KINDS):
        sys.exit(f"no such kind: {' '.join(sorted(unknown))}")
    if not chosen:
        sys.exit("no bug is of that name and kind")
    if "--list" in sys.argv:
        print("\n".join(f"{bug.name}: {bug.kind} {bug.test}" for bug in chosen))
        return
    os.environ["CARGO_INCREMENTAL"] = "1"
    copy = Copy("planted")
    with open(copy.path / "src" / "sync.rs", "a") as sync:
        sync.write(ANSWER)
    missed = 0
    for bugs in together(chosen):
        texts, absent = planted_in(bugs)
        with contextlib.ExitStack() as edits:
            for file, text in texts.items():
                edits.enter_context(copy.edited(file, text))
            sound = set()
            for bug in bugs:
                wrong, output = absent.get(bug.name) or caught(bug, copy, sound)
                missed += wrong is not None
                if wrong:
                    print("\n".join(output.splitlines()[-40:]))
                    print(f"MISSED  {bug.name}: {wrong}", flush=True)
                else:
                    print(f"caught  {bug.name}  by {bug.test.split()[-1]}  {output}", flush=True)
    print(f"{len(chosen)} bugs planted, {missed} missed")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
