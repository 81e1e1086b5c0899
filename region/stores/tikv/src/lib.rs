//! The port `RoomStore` on TiKV.

#![forbid(unsafe_code)]
