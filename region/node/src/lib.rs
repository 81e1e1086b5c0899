//! region/node
