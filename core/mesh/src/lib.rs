//! core/mesh
