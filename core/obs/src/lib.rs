//! core/obs
