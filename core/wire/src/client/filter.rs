//! Tags filters: which publications a subscriber wants, by their tags. A client's tree of
//! [`FilterNode`]s is checked once and then evaluated for every publication.
//!
//! A leaf compares one tag: `eq`, `in`, `ex`, `sw` (starts with), `ew` (ends with), `ct` (contains)
//! need it to be there; `neq`, `nin` and `nex` are true where it is not; `lt`, `lte`, `gt` and
//! `gte` compare decimals of any length, and are false where one of both is none.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::FilterNode;

/// Nodes of one filter.
pub const FILTER_NODES_MAX: usize = 256;
/// Levels of one filter.
pub const FILTER_DEPTH_MAX: usize = 16;
/// Characters of a decimal that is compared.
const DECIMAL_CHARS_MAX: usize = 256;

/// A filter that was checked. Equal ones let the same publications through.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TagsFilter {
    root: Node,
    nodes: usize,
    bytes: usize,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Leaf { key: String, test: Test },
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Test {
    Equal(String),
    NotEqual(String),
    /// Sorted.
    In(Vec<String>),
    /// Sorted.
    NotIn(Vec<String>),
    Exists,
    NotExists,
    StartsWith(String),
    EndsWith(String),
    Contains(String),
    Less(String),
    LessOrEqual(String),
    Greater(String),
    GreaterOrEqual(String),
}

/// What is wrong with a filter: the subscribe is answered 107.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FilterError {
    /// A comparison or operator that does not exist.
    #[error("the filter has a node with an unknown operator or comparison")]
    Unknown,
    /// A leaf names no tag, or has children.
    #[error("the filter has a comparison without a key, or with nodes below it")]
    Leaf,
    /// `and` and `or` need nodes, `not` exactly one.
    #[error("the filter has an operator with a wrong number of nodes")]
    Children,
    /// Too many nodes.
    #[error("the filter has more than {FILTER_NODES_MAX} nodes")]
    TooMany,
    /// Too many levels.
    #[error("the filter is nested deeper than {FILTER_DEPTH_MAX} levels")]
    TooDeep,
}

impl TagsFilter {
    /// Checks a client's filter.
    pub fn new(node: &FilterNode) -> Result<Self, FilterError> {
        let mut filter = TagsFilter {
            root: Node::All(Vec::new()),
            nodes: 0,
            bytes: 0,
        };
        filter.root = filter.take(node, 1)?;
        Ok(filter)
    }

    fn take(&mut self, node: &FilterNode, depth: usize) -> Result<Node, FilterError> {
        self.nodes += 1;
        if self.nodes > FILTER_NODES_MAX {
            return Err(FilterError::TooMany);
        }
        if depth > FILTER_DEPTH_MAX {
            return Err(FilterError::TooDeep);
        }
        let texts = node.vals.iter().chain([&node.key, &node.val]);
        let texts: usize = texts.map(|t| t.len() + size_of::<String>()).sum();
        self.bytes += size_of::<Node>() + texts;
        if node.op.is_empty() {
            return leaf(node);
        }
        let mut below = Vec::with_capacity(node.nodes.len().min(FILTER_NODES_MAX));
        for node in &node.nodes {
            below.push(self.take(node, depth + 1)?);
        }
        match (node.op.as_str(), below.len()) {
            ("and", 1..) => Ok(Node::All(below)),
            ("or", 1..) => Ok(Node::Any(below)),
            ("not", 1) => below
                .pop()
                .map(|node| Node::Not(Box::new(node)))
                .ok_or(FilterError::Children),
            ("and" | "or" | "not", _) => Err(FilterError::Children),
            _ => Err(FilterError::Unknown),
        }
    }

    /// Whether a publication with these tags is wanted.
    pub fn passes(&self, tags: &BTreeMap<String, String>) -> bool {
        self.root.passes(tags)
    }

    /// Its nodes: what evaluating it costs.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// About how many bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

fn leaf(node: &FilterNode) -> Result<Node, FilterError> {
    if node.key.is_empty() || !node.nodes.is_empty() {
        return Err(FilterError::Leaf);
    }
    let val = || node.val.clone();
    let vals = || {
        let mut vals = node.vals.clone();
        vals.sort_unstable();
        vals.dedup();
        vals
    };
    let test = match node.cmp.as_str() {
        "eq" => Test::Equal(val()),
        "neq" => Test::NotEqual(val()),
        "in" => Test::In(vals()),
        "nin" => Test::NotIn(vals()),
        "ex" => Test::Exists,
        "nex" => Test::NotExists,
        "sw" => Test::StartsWith(val()),
        "ew" => Test::EndsWith(val()),
        "ct" => Test::Contains(val()),
        "lt" => Test::Less(val()),
        "lte" => Test::LessOrEqual(val()),
        "gt" => Test::Greater(val()),
        "gte" => Test::GreaterOrEqual(val()),
        _ => return Err(FilterError::Unknown),
    };
    let key = node.key.clone();
    Ok(Node::Leaf { key, test })
}

impl Node {
    fn passes(&self, tags: &BTreeMap<String, String>) -> bool {
        match self {
            Node::All(nodes) => nodes.iter().all(|node| node.passes(tags)),
            Node::Any(nodes) => nodes.iter().any(|node| node.passes(tags)),
            Node::Not(node) => !node.passes(tags),
            Node::Leaf { key, test } => test.holds(tags.get(key).map(String::as_str)),
        }
    }
}

impl Test {
    fn holds(&self, tag: Option<&str>) -> bool {
        let has = |list: &[String], tag: &str| list.binary_search_by(|v| v.as_str().cmp(tag));
        let compares = |val: &str, is: fn(Ordering) -> bool| {
            let tag = tag.and_then(Decimal::parse);
            let val = Decimal::parse(val);
            matches!((tag, val), (Some(tag), Some(val)) if is(tag.cmp(&val)))
        };
        match self {
            Test::Equal(val) => tag == Some(val),
            Test::NotEqual(val) => tag != Some(val),
            Test::In(vals) => tag.is_some_and(|tag| has(vals, tag).is_ok()),
            Test::NotIn(vals) => tag.is_none_or(|tag| has(vals, tag).is_err()),
            Test::Exists => tag.is_some(),
            Test::NotExists => tag.is_none(),
            Test::StartsWith(val) => tag.is_some_and(|tag| tag.starts_with(val)),
            Test::EndsWith(val) => tag.is_some_and(|tag| tag.ends_with(val)),
            Test::Contains(val) => tag.is_some_and(|tag| tag.contains(val)),
            Test::Less(val) => compares(val, Ordering::is_lt),
            Test::LessOrEqual(val) => compares(val, Ordering::is_le),
            Test::Greater(val) => compares(val, Ordering::is_gt),
            Test::GreaterOrEqual(val) => compares(val, Ordering::is_ge),
        }
    }
}

/// A decimal as its text says: exact, whatever its length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Decimal<'a> {
    /// Never of 0.
    negative: bool,
    /// Without zeros before it.
    whole: &'a str,
    /// Without zeros behind it.
    fraction: &'a str,
}

impl<'a> Decimal<'a> {
    /// Digits with a sign before them or not, and a point between them or not.
    fn parse(text: &'a str) -> Option<Self> {
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (whole, fraction) = match unsigned.split_once('.') {
            Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
            Some(_) => return None,
            None => (unsigned, ""),
        };
        let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || text.len() > DECIMAL_CHARS_MAX || !digits(whole) || !digits(fraction)
        {
            return None;
        }
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        Some(Self {
            negative: text.starts_with('-') && !(whole.is_empty() && fraction.is_empty()),
            whole,
            fraction,
        })
    }

    fn cmp(&self, other: &Self) -> Ordering {
        let absolute = |a: &Self, b: &Self| {
            let lengths = a.whole.len().cmp(&b.whole.len());
            // Of equal length; and a fraction that is the beginning of another is the smaller.
            lengths.then_with(|| (a.whole, a.fraction).cmp(&(b.whole, b.fraction)))
        };
        match (self.negative, other.negative) {
            (false, false) => absolute(self, other),
            (true, true) => absolute(other, self),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Dialect, decode_filter};
    use prost::Message as _;

    fn node(json: &str) -> FilterNode {
        let json = bytes::Bytes::copy_from_slice(json.as_bytes());
        let node = decode_filter(Dialect::Json, &json)
            .expect("JSON")
            .expect("one");
        // Both dialects say the same; a node of nothing is no bytes in Protobuf.
        let protobuf = bytes::Bytes::from(node.encode_to_vec());
        let again = decode_filter(Dialect::Protobuf, &protobuf);
        assert_eq!(again, Ok((!protobuf.is_empty()).then(|| node.clone())));
        node
    }

    fn passes(json: &str, tags: &[(&str, &str)]) -> bool {
        let filter = TagsFilter::new(&node(json)).expect("a filter");
        let tags = tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        filter.passes(&tags.collect())
    }

    #[test]
    fn every_comparison() {
        let (there, other, absent) = (("t", "abc"), ("t", "xyz"), ("u", "abc"));
        for (cmp, wants) in [
            (r#""eq","val":"abc""#, [true, false, false]),
            (r#""neq","val":"abc""#, [false, true, true]),
            (r#""in","vals":["q","abc"]"#, [true, false, false]),
            (r#""nin","vals":["q","abc"]"#, [false, true, true]),
            (r#""in""#, [false, false, false]),
            (r#""ex""#, [true, true, false]),
            (r#""nex""#, [false, false, true]),
            (r#""sw","val":"ab""#, [true, false, false]),
            (r#""ew","val":"bc""#, [true, false, false]),
            (r#""ct","val":"b""#, [true, false, false]),
            (r#""gt","val":"0""#, [false, false, false]),
        ] {
            let json = format!(r#"{{"key":"t","cmp":{cmp}}}"#);
            let got = [there, other, absent].map(|tag| passes(&json, &[tag]));
            assert_eq!(got, wants, "{json}");
        }
    }

    #[test]
    fn numbers_are_decimals() {
        let order = [
            "-10",
            "-9.5",
            "-0.25",
            "0",
            "0.1",
            "0.10000000000000000001",
            "9",
            "10",
            "123456789012345678901234567890",
        ];
        for (a, small) in order.iter().enumerate() {
            for (b, large) in order.iter().enumerate() {
                for (cmp, holds) in [
                    ("lt", a < b),
                    ("lte", a <= b),
                    ("gt", a > b),
                    ("gte", a >= b),
                ] {
                    let json = format!(r#"{{"key":"n","cmp":"{cmp}","val":"{large}"}}"#);
                    assert_eq!(
                        passes(&json, &[("n", small)]),
                        holds,
                        "{small} {cmp} {large}"
                    );
                }
            }
        }
        for (a, b) in [("1", "1.0"), ("+5", "05"), ("-0", "0"), ("0.50", "00.5")] {
            let json = format!(r#"{{"key":"n","cmp":"gte","val":"{a}"}}"#);
            assert!(passes(&json, &[("n", b)]));
            let json = format!(r#"{{"key":"n","cmp":"gt","val":"{a}"}}"#);
            assert!(!passes(&json, &[("n", b)]));
        }
        for bad in [
            "",
            "x",
            "1.",
            ".5",
            "1e3",
            "--1",
            "1.2.3",
            " 1",
            "٣",
            &"9".repeat(300),
        ] {
            for cmp in ["lt", "lte", "gt", "gte"] {
                let json = format!(r#"{{"key":"n","cmp":"{cmp}","val":"1"}}"#);
                assert!(!passes(&json, &[("n", bad)]), "{bad:?}");
                let json = format!(r#"{{"key":"n","cmp":"{cmp}","val":"{bad}"}}"#);
                assert!(!passes(&json, &[("n", "1")]), "{bad:?}");
            }
        }
    }

    #[test]
    fn operators() {
        let (a, b) = (r#"{"key":"a","cmp":"ex"}"#, r#"{"key":"b","cmp":"ex"}"#);
        let both = [("a", ""), ("b", "")];
        for (op, wants) in [
            (
                format!(r#"{{"op":"and","nodes":[{a},{b}]}}"#),
                [false, true, false],
            ),
            (
                format!(r#"{{"op":"or","nodes":[{a},{b}]}}"#),
                [true, true, false],
            ),
            (
                format!(r#"{{"op":"not","nodes":[{a}]}}"#),
                [false, false, true],
            ),
        ] {
            let got = [&both[..1], &both[..], &[]].map(|tags| passes(&op, tags));
            assert_eq!(got, wants, "{op}");
        }
    }

    #[test]
    fn malformed_filters_are_refused() {
        let deep = |levels: usize| {
            let (open, close) = (
                r#"{"op":"not","nodes":["#.repeat(levels),
                "]}".repeat(levels),
            );
            format!(r#"{open}{{"key":"a","cmp":"ex"}}{close}"#)
        };
        let wide = |nodes: usize| {
            let nodes = vec![r#"{"key":"a","cmp":"ex"}"#; nodes].join(",");
            format!(r#"{{"op":"or","nodes":[{nodes}]}}"#)
        };
        let of = |json: &str| TagsFilter::new(&node(json)).map(|f| f.nodes());
        for (json, error) in [
            ("{}".to_owned(), FilterError::Leaf),
            (r#"{"key":"a"}"#.to_owned(), FilterError::Unknown),
            (
                r#"{"key":"a","cmp":"like"}"#.to_owned(),
                FilterError::Unknown,
            ),
            (r#"{"cmp":"eq"}"#.to_owned(), FilterError::Leaf),
            (
                r#"{"key":"a","cmp":"ex","nodes":[{}]}"#.to_owned(),
                FilterError::Leaf,
            ),
            (r#"{"op":"and"}"#.to_owned(), FilterError::Children),
            (
                r#"{"op":"or","nodes":[]}"#.to_owned(),
                FilterError::Children,
            ),
            (r#"{"op":"not"}"#.to_owned(), FilterError::Children),
            (
                r#"{"op":"not","nodes":[{"key":"a","cmp":"ex"},{"key":"a","cmp":"ex"}]}"#
                    .to_owned(),
                FilterError::Children,
            ),
            (
                r#"{"op":"xor","nodes":[{"key":"a","cmp":"ex"}]}"#.to_owned(),
                FilterError::Unknown,
            ),
            (deep(FILTER_DEPTH_MAX), FilterError::TooDeep),
            (wide(FILTER_NODES_MAX), FilterError::TooMany),
        ] {
            assert_eq!(of(&json), Err(error), "{json}");
        }
        assert_eq!(of(&deep(FILTER_DEPTH_MAX - 1)), Ok(FILTER_DEPTH_MAX));
        assert_eq!(of(&wide(FILTER_NODES_MAX - 1)), Ok(FILTER_NODES_MAX));
    }

    #[test]
    fn equal_filters_are_equal() {
        let of = |json: &str| TagsFilter::new(&node(json)).expect("a filter");
        let one = of(r#"{"key":"a","cmp":"in","vals":["x","y","x"]}"#);
        assert_eq!(
            one,
            of(r#"{"cmp":"in","vals":["x","y","x"],"key":"a","op":""}"#)
        );
        assert_ne!(one, of(r#"{"key":"a","cmp":"nin","vals":["x","y","x"]}"#));
    }
}
