//! What crosses a boundary as bytes: the client dialects, the frames of the mesh, and the record
//! of the log. Types and codecs only; golden bytes of every format stand beside the code.

pub mod client;
pub mod fossil;
#[doc(hidden)]
pub mod fuzz;
pub mod mesh;
pub mod record;
