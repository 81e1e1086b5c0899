//! Connections that run one way, from the edge to the client: HTTP streaming and event streams. What
//! their clients have to say came with the request, or comes by requests of its own (`/emulation`);
//! of unidirectional ones nothing more is heard.

pub(crate) mod framing;
pub(crate) mod listening;
