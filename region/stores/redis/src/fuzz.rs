//! Entry points for fuzzers: every parser of what Redis hands over, fed with anything. Each must return.
//! What a fuzzer finds becomes a file in `tests/corpus/`, which the tests replay.

use crate::followers::Subject;
use crate::people::Followed;
use crate::signals::Room;
use crate::topics::payload_of;

/// Any bytes as a message in a channel of signals and in one of people's changes.
pub fn message(data: &[u8]) {
    // Any answer will do.
    let _ = payload_of(data).map(|(_, payload)| (Room::decode(payload), Followed::decode(payload)));
}
