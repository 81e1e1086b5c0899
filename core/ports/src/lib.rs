//! core/ports
