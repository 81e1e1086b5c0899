//! Entry points for fuzzers: every parser of what a disk may hold, fed with anything. Each must
//! return. What a fuzzer finds becomes a file in `tests/corpus/`, which the tests replay.

use crate::inspect::verify_in;
use crate::log::format::{FrameHeader, SegmentHeader, records_of};
use crate::sim_disk::SimDisk;
use crate::{LogConfig, SegmentedLog, Vfs, VfsFile};

/// Any bytes as a directory's only segment and as everything that stands beside one: its index, a
/// checkpoint, the consumers' positions.
pub fn directory(segment: &[u8], beside: &[u8]) {
    let disk = SimDisk::new(1);
    for (name, bytes) in [
        ("0000000000000000.seg", segment),
        ("0000000000000000.idx", beside),
        ("00000000000000000003.ckpt", beside),
        ("consumers", beside),
    ] {
        let file = disk.dir("shard").create(name);
        let written = file.and_then(|file| file.write_at(0, bytes));
        assert!(written.is_ok(), "a simulated disk takes everything");
    }
    // Any answer will do.
    let _ = verify_in(disk.dir("shard"));
    if let Ok(log) = SegmentedLog::open(disk.dir("shard"), LogConfig::default()) {
        let range = log.range();
        let reader = log.reader();
        let _ = reader.read(range.first, 1000, 1 << 20);
        let _ = reader.read_at(&[0, 1, range.next.wrapping_sub(1), u64::MAX]);
        let _ = reader.plan_retention(&|_, _| 5, u64::MAX);
        let _ = reader.load_checkpoint();
        let _ = reader.consumers();
    }
    let _ = crate::archived::marker_of(beside);
    let _ = SegmentHeader::decode(segment);
    if let Some(header) = FrameHeader::decode(segment) {
        let _ = records_of(&header, segment, 0, |_, _| true);
    }
}

/// One input for [`directory`]: the segment's length in four bytes, little endian, the segment, and
/// what stands beside it.
pub fn directory_of(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return directory(&[], bytes);
    };
    let length = u32::from_le_bytes(*length) as usize;
    let (segment, beside) = rest.split_at(length.min(rest.len()));
    directory(segment, beside);
}
