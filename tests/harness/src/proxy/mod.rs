//! TCP proxy.
