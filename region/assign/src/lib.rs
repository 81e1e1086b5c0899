//! Which node of a region owns which shard: a pure machine that is told what the records of nodes and
//! assignments say and when they changed, and answers what this node should do about it.

#![forbid(unsafe_code)]
