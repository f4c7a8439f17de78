// Package buffer is a durable queue of byte strings: a segmented log on bbolt
// with group commit, lanes, one cursor per reader, a hard byte budget and
// quarantine of what cannot be read. It knows nothing of gateways or records.
//
// # On disk
//
//	DIR/lock                      held by the process that has the queue open
//	DIR/reserve                   bytes to delete when the disk is full
//	DIR/<lane>/<first seq>.seg    a segment: one bbolt file, the newest is the only one written
//	DIR/<lane>/<first seq>.seg.bad  a damaged segment, kept until the budget needs its space
//	DIR/<lane>/new.tmp            a segment being made; removed when the next one is
//	DIR/<lane>/thin.tmp           a segment being thinned; removed when the queue is opened
//
// A segment has two buckets. "b" holds blocks: many records framed, compressed
// and checksummed together, cut into pieces of 480 bytes under the key
// (first seq, piece number). "m" holds the format version, the generation of
// the queue, the segment's first seq, the next seq, every cursor, and the
// journal of losses, each value with a checksum of its own: bbolt checks
// nothing but its meta pages. With Options.Keys the body of a block is
// encrypted and bound to its header, lane and queue, and "m" holds a mark that
// says since which seq; see crypt.go. What else is in "m", and the names of
// lanes and cursors, is never encrypted. The newest segment of a lane is never deleted
// before another one is there, so that the next seq and the cursors survive a
// queue that was drained and closed. "m" also says how often the segment was
// thinned and, with retention, below which seq everything was delivered.
//
// # Room
//
// The queue has a budget, and each lane may have one; a lane's touches only
// that lane. When a commit does not fit, segments that were set aside go first,
// then delivered ones that are kept for replay, then what the policy says:
// LowestLane and Oldest delete a segment, Reject nothing, Thin has the segment
// that was thinned least often, the oldest of these, written again with a part
// of its records, up to six times, and then does as LowestLane. A rewrite runs
// beside the committer from the high-water mark on, in memory for a block or
// two and in room that is set aside for its file; at the budget itself the
// committer waits for it. A thinned segment covers the same seqs as before in
// sparse blocks, each reaching to the next, so that what is missing is told
// from the blocks and needs no entry in the journal.
//
// # The crash argument
//
// What is on disk after kill -9 or a power cut, and why opening it is right:
//
//  1. A commit is one bbolt transaction: data pages, sync, meta page, sync. A
//     cut before the second sync leaves the meta page of the commit before:
//     the records are not there and nobody was told they are, because done is
//     called after the second sync. A cut after it leaves all of them. bbolt
//     shows the commit to readers before the second sync: a Read stops at the
//     seq up to which commits have returned, so that nothing is forwarded that
//     a cut takes back and whose seq is then given again.
//  2. A new segment is written whole under another name, synced, renamed over
//     its final name, and the directory is synced before the first append into
//     it is acknowledged, as is the directory above when it was made. A cut
//     leaves either no new segment or a complete one. It carries copies of all
//     cursors, so that the newest segment alone tells the state of its lane.
//  3. The next seq is written by every commit. Pages are overwritten only after
//     their blocks were released by every cursor.
//  4. A cursor on disk may be older than what was released, never newer than
//     what the far side confirmed: a cut repeats records, it loses none.
//  5. A segment's file is deleted only when the cursors on disk are past it. On
//     a full disk the reserve gives the space for a new segment that carries
//     the cursors; when even that fails, the cursors in memory decide.
//  6. The budget deletes segments that were not released. The loss is written
//     to the journal by the next commit; if the cut comes first, a reader
//     still finds the hole (its cursor is below the first record that exists)
//     and reports it, with the reason unknown.
//     A thinned segment is written whole and synced under a name of its own and
//     renamed over the old one, which only the committer does, after it has
//     seen that the segment is still the lane's. A cut leaves the old file or
//     the new one; both speak for the same seqs, and the new one carries the
//     cursors, the journal and the next seq that the old one did.
//     Delivered segments that are kept for replay lie below every cursor on
//     disk (5); the mark of where they end is written by the commit after, and
//     an older mark only lets a new cursor begin earlier.
//  7. When a commit fails for another reason than a full disk its outcome is
//     unknown (the meta page may have been written though its sync failed).
//     Nothing is acknowledged, the segment is closed and read back, and what
//     is found in it counts as queued: a record may be stored twice, never
//     acknowledged and lost. Writing goes on in a new segment, and what the
//     old one shows from that segment's first seq on is not read.
//
// And after damage:
//
//  8. A segment that cannot be read is rebuilt from the blocks that its pages
//     still hold; what is missing is a loss, and the damaged file is kept. It
//     is set aside whole when nothing is left of it or there is no space.
//  9. When the newest segment does not tell the next seq the lane goes on 2^20
//     seqs after the segment's first, more than one ever holds; when one of
//     its two meta pages is not valid (bbolt may then show the commit before
//     the last), as many seqs later as a commit has at most. No seq is given
//     twice; readers report the hole, and that its count is not exact.
//  10. A cursor that fails its checksum begins again at the oldest record:
//     repeated, not lost. One that went with the only segment of its lane is
//     told of everything since that segment's first seq.
//
// And with encryption:
//
//  11. Every checksum is over what is stored, so that damage is found, and what
//     is left of a segment is saved, without the key. A block whose checksum is
//     right and that does not decrypt, or that is in plain at or above the seq
//     of the mark, was altered or moved: it is a loss of that block.
//  12. A block whose key was not given is neither damaged nor lost: reading it
//     fails, and Open refuses a lane whose newest segment needs that key before
//     it changes anything; a guest in that case is left alone. A new key is used from the first segment that is
//     begun with it, and every run begins one.
//
// # When commits are made
//
// A commit is made at once when somebody waits: for a batch, a Sync, a segment
// to be set aside, Close. Batches marked Lazy wait up to their lane's MaxDelay
// for one, and cursors up to CursorDelay; whatever commit comes first takes all
// of them. done is called after it in any case: what a cut takes was not
// acknowledged, and whoever marks a batch Lazy can lose MaxDelay of it.
//
// # Writing ahead
//
// With Options.Prefill the part of the active segment behind the last page that
// the newest commit knows of is overwritten with zeros when bbolt has extended
// the file. The page number up to which pages are used only grows, so that the
// older meta page knows of none there either; the committer alone writes, and
// no transaction is open then. A cut leaves zeros or nothing where no page is,
// and bbolt writes a page whole before a meta page refers to it. The zeros are
// synced with the next commit, before its meta page.
//
// # A directory that goes and comes back
//
// Before each round, before a segment or the reserve is made, before each read
// and after a commit that failed, the path must lead to the directory and the
// lock file that were opened, by device and inode. When it does not, nothing is
// written, deleted, set aside or reported lost: every file is closed, and
// appends and reads fail with ErrGone. The seqs, cursors and losses stay in
// memory. It is the queue again when its lanes have segments of the same
// generation (an empty queue, when it is the very directory). It is then locked
// and every lane is opened as by Open; the next seq is the larger of memory and
// disk, so that none is given twice and a commit whose outcome was not known
// counts as queued. The cursors and losses of memory are newer and are written
// by the next commit; until then no segment is deleted. Records that an older
// copy lacks are reported as a loss. On a device that was pulled out and is
// still mounted reads fault: what cannot be read while the lock file cannot be
// written is treated in the same way. Between a check and what it allows the
// directory may still go: what is then written by name fails or is an empty
// segment of ours, and is not acknowledged as stored before its sync.
//
// # bbolt and panics
//
// Every call into bbolt runs under recover with page faults as panics. Two
// cases need more. After a failed commit bbolt follows every page of the file
// in a goroutine of its own, where a panic ends the process: such a commit is
// left before that, by a panic out of the log line that bbolt writes first
// (transact.go), and rolled back in memory. bbolt reads the meta pages with its
// locks held: after a page fault there the file is closed under it and it is
// not called again (segment.begin).
package buffer
