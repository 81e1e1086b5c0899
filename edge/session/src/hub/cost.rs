//! What a publication or a person costs to send: upper bounds of the encoded bytes in either
//! dialect, so that budgets in bytes keep frames below their bound.

use gb6_core_wire::mesh::{Person, Publication};
use gb6_core_wire::record::ContentType;

use crate::request::Recent;

/// Names of fields, punctuation and numbers of one publication in JSON, at most.
const FIXED_COST: usize = 192;

impl Recent {
    /// A publication with its cost.
    pub fn new(publication: Publication) -> Self {
        let cost = self::publication(&publication);
        Self { publication, cost }
    }
}

/// The cost of a publication.
pub(crate) fn publication(p: &Publication) -> usize {
    let tags: usize = p.tags.iter().map(|(k, v)| text(k) + text(v) + 6).sum();
    FIXED_COST + data(&p.data, p.content_type()) + tags + p.from.as_ref().map_or(0, person)
}

/// The cost of a person.
pub(crate) fn person(p: &Person) -> usize {
    let info = |b: &[u8]| data(b, ContentType::Unspecified);
    64 + text(&p.user) + text(&p.client) + info(&p.conn_info) + info(&p.chan_info)
}

/// The cost of a person in an answer about presence, where it stands under its client id.
pub(crate) fn entry(p: &Person) -> usize {
    person(p) + text(&p.client) + 8
}

fn data(data: &[u8], content_type: ContentType) -> usize {
    match content_type {
        ContentType::Json => data.len(),
        // Base 64 in an object, if it turns out not to be JSON.
        _ if data.is_empty() => 0,
        _ => data.len().div_ceil(3) * 4 + 10,
    }
}

fn text(text: &str) -> usize {
    let escaped = |b: u8| match b {
        0..=0x1f => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    text.bytes().map(escaped).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gb6_core_wire::client::{self, Dialect};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cost_is_an_upper_bound(
            data in prop::collection::vec(any::<u8>(), 0..300),
            user in "\\PC{0,20}|[\u{0}-\u{1f}\"\\\\]{0,20}",
            tag in "[\u{0}-\u{7f}]{0,20}",
            offset in any::<u64>(),
            time in any::<i64>(),
        ) {
            let p = Publication {
                offset, time,
                data: data.into(),
                tags: [(tag.clone(), tag)].into(),
                from: Some(Person { user, client: "c".repeat(36), ..Person::default() }),
                ..Publication::default()
            };
            for dialect in Dialect::ALL {
                let frame = client::encode_publication_push(dialect, "", &p);
                prop_assert!(frame.len() <= publication(&p), "{} above {}", frame.len(), publication(&p));
            }
        }
    }
}
