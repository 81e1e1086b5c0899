//! edge/session
