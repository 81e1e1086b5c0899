//! What of the Kafka log needs no Kafka: the rules of its messages, the parsers of
//! outside bytes, and what the documentation says of both.

mod docs;
mod old;
mod parsing;
mod rules;
