//! edge/node
