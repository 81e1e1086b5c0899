//! The ports `MapStore` and `Directory` on SQLite and PostgreSQL.

#![forbid(unsafe_code)]
