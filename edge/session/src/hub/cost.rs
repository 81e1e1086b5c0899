//! What a publication or a person costs to send.
//!
//! Two sums for a publication: what is counted of it against a budget in bytes, with its data as
//! they are, and what a reply with it has at most in either dialect, so that frames stay below
//! their bound: data that is not JSON is a third longer in JSON.

use gb6_core_wire::mesh::{Person, Publication};
use gb6_core_wire::record::ContentType;

use crate::request::Recent;

/// What stands around data that is not JSON: `{"b64":""}`.
const BASE64_AROUND: usize = 10;

impl Recent {
    /// A publication with its cost.
    pub fn new(publication: Publication) -> Self {
        let cost = encoded(&publication, |bytes, _| bytes.len());
        Self { publication, cost }
    }
}

/// The most that one publication takes in a frame.
pub(crate) fn publication(p: &Publication) -> usize {
    encoded(p, data)
}

/// About the most that so many publications, which count so many bytes together, take in a frame:
/// as if all their bytes were data that is not JSON.
pub(crate) fn shown_at_most(publications: u32, bytes: u32) -> usize {
    (bytes as usize).div_ceil(3) * 4 + publications as usize * BASE64_AROUND
}

/// Bytes of a publication in JSON, the comma behind it included, when data have as many as `data`
/// says. In Protobuf it has fewer: names of fields are longer than their numbers.
fn encoded(p: &Publication, data: impl Fn(&[u8], ContentType) -> usize) -> usize {
    let tags: usize = p.tags.iter().map(|(k, v)| text(k) + text(v) + 6).sum();
    let from = p.from.as_ref().map_or(0, |from| info(from, &data));
    3 + field("data", data(&p.data, p.content_type()))
        + field("info", from)
        + field("offset", digits(p.offset))
        + field("tags", if p.tags.is_empty() { 0 } else { 2 + tags })
        + field("time", 1 + digits(p.time.unsigned_abs()))
}

/// A field of an object with its key and comma; one that is empty is left out.
fn field(name: &str, value: usize) -> usize {
    if value == 0 {
        0
    } else {
        name.len() + 4 + value
    }
}

fn digits(number: u64) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

/// Who published, with its braces.
fn info(p: &Person, data: impl Fn(&[u8], ContentType) -> usize) -> usize {
    let quoted = |t: &str| if t.is_empty() { 0 } else { text(t) + 2 };
    let shown = |b: &[u8]| data(b, ContentType::Unspecified);
    2 + field("user", quoted(&p.user))
        + field("client", quoted(&p.client))
        + field("conn_info", shown(&p.conn_info))
        + field("chan_info", shown(&p.chan_info))
}

/// The cost of a person in an answer about presence, where it stands under its client id.
pub(crate) fn entry(p: &Person) -> usize {
    info(p, data) + text(&p.client) + 8
}

fn data(data: &[u8], content_type: ContentType) -> usize {
    match content_type {
        ContentType::Json => data.len(),
        // Base 64 in an object, if it turns out not to be JSON.
        _ if data.is_empty() => 0,
        _ => data.len().div_ceil(3) * 4 + BASE64_AROUND,
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
    use gb6_core_wire::client::{self, Dialect, HistoryResult, Reply};
    use proptest::prelude::*;

    /// Bytes of a reply with nothing but these publications.
    fn length(dialect: Dialect, publications: &[Publication]) -> usize {
        let result = HistoryResult {
            publications: publications.iter().map(Into::into).collect(),
            ..HistoryResult::default()
        };
        let mut out = Vec::new();
        client::encode_reply(dialect, &Reply::answer(1, result), &mut out);
        out.len()
    }

    /// Of the reply around the publications.
    const AROUND: usize = r#"{"id":1,"history":{"publications":[]}}"#.len();

    fn publications() -> impl Strategy<Value = Vec<Publication>> {
        let one = (
            prop::collection::vec(any::<u8>(), 0..300),
            any::<bool>(),
            "\\PC{0,20}|[\u{0}-\u{1f}\"\\\\]{0,20}",
            "[\u{0}-\u{7f}]{0,20}",
            any::<u64>(),
            0..i64::MAX,
        );
        let one = one.prop_map(|(data, json, user, tag, offset, time)| Publication {
            offset,
            time,
            content_type: i32::from(json),
            data: match json {
                true => format!("\"{}\"", "x".repeat(data.len())).into(),
                false => data.into(),
            },
            tags: match tag.len() {
                0..=5 => Default::default(),
                _ => [(tag.clone(), tag)].into(),
            },
            from: (!user.is_empty()).then(|| Person {
                user,
                client: "c".repeat(36),
                conn_info: "{\"a\":1}".into(),
                ..Person::default()
            }),
            ..Publication::default()
        });
        prop::collection::vec(one, 1..20)
    }

    proptest! {
        #[test]
        fn cost_is_an_upper_bound(list in publications()) {
            let most: usize = list.iter().map(publication).sum();
            for dialect in Dialect::ALL {
                let length = length(dialect, &list);
                prop_assert!(length <= most + AROUND, "{length} above {most}");
            }
        }

        #[test]
        fn what_counts_of_json_is_what_is_sent(list in publications()) {
            let mut list = list;
            list.retain(|p| p.content_type() == ContentType::Json);
            // Control characters count as their longest form.
            list.iter_mut().flat_map(|p| &mut p.from).for_each(|from| from.user.clear());
            list.iter_mut().for_each(|p| p.tags.clear());
            let counted: usize = list.iter().map(|p| Recent::new(p.clone()).cost).sum();
            let sent = length(Dialect::Json, &list);
            prop_assert!(sent.abs_diff(counted) <= AROUND, "{counted} for {sent}");
        }

        #[test]
        fn what_counts_says_what_may_be_sent(list in publications()) {
            let list: Vec<Publication> = list.into_iter().map(|p| Publication { from: None, ..p }).collect();
            let counted: usize = list.iter().map(|p| Recent::new(p.clone()).cost).sum();
            let most: usize = list.iter().map(publication).sum();
            // Each may be rounded up to a whole group of base 64.
            let shown = shown_at_most(list.len() as u32, counted as u32) + 3 * list.len();
            prop_assert!(most <= shown);
        }
    }

    #[test]
    fn ten_thousand_messages_fit_where_their_bytes_do() {
        let one = |offset| Publication {
            offset,
            data: "1".into(),
            content_type: ContentType::Json.into(),
            time: 1_800_000_000_000,
            ..Publication::default()
        };
        let all: usize = (1..=10_000).map(|n| Recent::new(one(n)).cost).sum();
        assert!(all <= gb6_core_model::limits::RECOVERY_BYTES_MAX, "{all}");
    }
}
