//! region/shard
