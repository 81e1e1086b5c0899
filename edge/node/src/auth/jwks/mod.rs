//! Key sets that are fetched.

mod set;

pub(crate) use set::parse_key_set;
