//! Every bound that the whole mesh shares, with its unit and its reason. Bounds that belong to one
//! machine or driver stand there.

/// Longest channel name in bytes: what the client protocol's users expect.
pub const CHANNEL_BYTES_MAX: usize = 255;
/// Largest data of one publication in bytes, by default.
pub const PUBLISH_BYTES_MAX: usize = 64 * 1024;
/// Longest client message id in bytes; the shortest is 1.
pub const MESSAGE_ID_BYTES_MAX: usize = 128;
/// Largest incoming client frame in bytes: a client with a thousand rooms sends connect and every
/// subscribe in one frame of about 120 KiB, so the bound is far above it; single commands have
/// their own.
pub const CLIENT_FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Largest outgoing client frame in bytes: some clients refuse above 1 MiB.
pub const CLIENT_FRAME_OUT_BYTES_MAX: usize = 900 * 1024;
/// Largest single command in bytes: a publish, plus room for its names and token.
pub const COMMAND_BYTES_MAX: usize = PUBLISH_BYTES_MAX + 16 * 1024;
/// Deepest nesting of JSON data that is accepted from, or shown as JSON to, a client: parsers in
/// common SDKs recurse and fail at about a thousand.
pub const JSON_DEPTH_MAX: usize = 128;
/// Subscriptions of one session, by default.
pub const SUBSCRIPTIONS_MAX: usize = 1024;
/// Fewest bytes of a prefix behind its namespace: what follows a whole namespace costs every client
/// that does as much as the namespace's rooms together.
pub const PREFIX_BYTES_MIN: usize = 3;
/// Prefixes that one session may follow: each costs a subscriber in every shard of its instance.
pub const PREFIXES_SESSION_MAX: usize = 16;
/// Different prefixes of one instance that one edge follows, and four times as many over all edges
/// in one shard.
pub const PREFIXES_INSTANCE_MAX: usize = 1024;
/// Publications recovered for one connection attempt, over all its rooms.
pub const RECOVERY_PUBLICATIONS_MAX: usize = 10_000;
/// Bytes recovered for one connection attempt, over all its rooms.
pub const RECOVERY_BYTES_MAX: usize = 512 * 1024;
/// Publications in one page of history.
pub const HISTORY_PAGE_MAX: usize = 300;
/// Bytes in one page of history. One publication is always delivered, whatever its size.
pub const HISTORY_PAGE_BYTES_MAX: usize = 512 * 1024;
/// Bytes that may wait for one session before it is disconnected as slow (3008).
pub const SESSION_QUEUE_BYTES_MAX: usize = 1024 * 1024;
/// Entries in the answer to `presence`.
pub const PRESENCE_ENTRIES_MAX: usize = 1000;
/// Members above which a room sends no join and leave pushes, by default.
pub const JOIN_LEAVE_MEMBERS_MAX: usize = 200;
/// What a user says of itself, in bytes.
pub const USER_STATE_BYTES_MAX: usize = 256;
/// The longest that statuses of users are kept, in ms.
pub const USER_STATUS_TTL_MS_MAX: u64 = 31 * 24 * 60 * 60 * 1000;
/// Message ids remembered by one shard.
pub const DEDUPE_IDS_MAX: usize = 1_000_000;
/// How long a message id is remembered, in ms of time in which its shard was served.
pub const DEDUPE_WINDOW_MS: u64 = 10 * 60 * 1000;
/// How long an edge waits for the answer to a publish before it answers 1003, in ms. SDKs give up
/// at 5 s.
pub const PUBLISH_ANSWER_MS: u64 = 4_000;
/// How long the results of an edge's publishes are kept for its resends, in ms.
pub const RESEND_WINDOW_MS: u64 = 30_000;
/// An edge's lease with a shard's owner by default, in ms: its people are present that long after
/// it was last heard.
pub const EDGE_LEASE_MS: u64 = 10_000;
/// Largest frame on a mesh stream in bytes: a full page of history with its envelope.
pub const MESH_FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Limits that one question of an edge, and its answer, may name: a few hundred bytes each.
pub const LIMITS_ENTRIES_MAX: usize = 1024;
/// Publishes that an edge may have unanswered at one shard for one instance.
pub const PUBLISH_CREDIT: u32 = 1024;
