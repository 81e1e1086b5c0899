//! region/stores/embedded
