//! The Centrifuge client protocol, version 2: types, and its JSON and Protobuf dialects.
