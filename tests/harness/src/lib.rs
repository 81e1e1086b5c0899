//! History checker, fault proxy and process harness.
