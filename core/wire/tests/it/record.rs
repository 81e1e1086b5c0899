//! The record: golden bytes, and bodies that are compressed, sealed and erased.

use bytes::Bytes;
use gb6_core_wire::record::*;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;

use crate::client_golden::{hex, to_hex};

const KEY: [u8; 32] = [7; 32];
const NONCE: [u8; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

/// The instance "demo" has key 1; key 2 was destroyed.
struct Keys;

fn seal_key() -> SealKey {
    SealKey::new(&KEY)
}

impl KeyRing for Keys {
    fn key(&self, instance: &str, key_id: u32) -> Option<[u8; 32]> {
        (instance == "demo" && key_id == 1).then_some(KEY)
    }
}

fn message(body: impl Into<Bytes>) -> Record {
    Record {
        version: RECORD_VERSION,
        kind: Kind::Message.into(),
        instance: "demo".into(),
        instance_epoch: 1,
        channel: "room:1".into(),
        offset: 6,
        position: 300,
        shard_epoch: 2,
        time: 1_700_000_000_000,
        origin: Some(Origin {
            user: "alice".into(),
            client: "c1".into(),
            edge_incarnation: 0x0102_0304_0506_0708,
            session: 9,
            number: 1,
            ..Default::default()
        }),
        client_id: Bytes::from_static(b"m1"),
        tags: [("id".to_owned(), "m1".to_owned())].into(),
        content_type: ContentType::Json.into(),
        body: body.into(),
        owner_incarnation: 3,
        ..Default::default()
    }
}

fn compressed(body: impl Into<Bytes>) -> Record {
    let mut record = message(body);
    compress_body(&mut record);
    record
}

/// If this fails, logs that exist can not be read any more: the format must not change.
#[test]
fn golden_message() {
    let record = message(&br#"{"a":1}"#[..]);
    assert_eq!(to_hex(&record.encode_to_vec()), GOLDEN_MESSAGE);
    assert_eq!(Record::decode(&*hex(GOLDEN_MESSAGE)), Ok(record));
}

const GOLDEN_MESSAGE: &str = concat!(
    "080110011a0464656d6f20012a06726f6f6d3a31300640ac0248025080d095ffbc315a180a05616c",
    "696365120263312908070605040302013009380162026d318201080a02696412026d31880101ba01",
    "077b2261223a317dc9010300000000000000",
);

/// Every field, with a value that tells it from the others.
#[test]
fn golden_everything() {
    let record = Record {
        version: 1,
        kind: Kind::Import.into(),
        instance: "demo".into(),
        instance_epoch: 4,
        channel: "room:1".into(),
        offset: 6,
        generation: 7,
        position: 300,
        shard_epoch: 9,
        time: -1,
        origin: Some(Origin {
            user: "alice".into(),
            client: "c1".into(),
            conn_info: Bytes::from_static(b"ci"),
            chan_info: Bytes::from_static(b"hi"),
            edge_incarnation: 5,
            session: 6,
            number: 300,
            hops: 8,
            unknown: Vec::new(),
        }),
        client_id: Bytes::from_static(b"m1"),
        data_version: 13,
        version_epoch: "ve".into(),
        target_offset: 14,
        thread_root: 15,
        tags: [("a", "x"), ("b", "y")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        content_type: ContentType::Bytes.into(),
        key_id: 18,
        flags: 19,
        original_time: 20,
        original_id: "o21".into(),
        traceparent: "t22".into(),
        body: Bytes::from_static(b"body"),
        compression: Compression::Lz4.into(),
        owner_incarnation: 25,
        slots: vec![1, 300],
        served_ms: 27,
        unknown: Vec::new(),
    };
    assert_eq!(to_hex(&record.encode_to_vec()), GOLDEN_EVERYTHING);
    assert_eq!(record.encoded_len() * 2, GOLDEN_EVERYTHING.len());
    assert_eq!(Record::decode(&*hex(GOLDEN_EVERYTHING)), Ok(record));
}

const GOLDEN_EVERYTHING: &str = concat!(
    "080110051a0464656d6f20042a06726f6f6d3a313006380740ac02480950ffffffffffffffffff01",
    "5a230a05616c696365120263311a02636922026869290500000000000000300638ac02400862026d",
    "31680d700e780f8201060a01611201788201060a0162120179880102900112980113a00114aa0103",
    "6f3231b20103743232ba0104626f6479c00101c9011900000000000000d2010301ac02d8011be2",
    "01027665",
);

#[test]
fn golden_sealed_body() {
    let mut record = message(&br#"{"a":1}"#[..]);
    seal_body(&mut record, 1, &seal_key(), NONCE).unwrap();
    assert_eq!(to_hex(&record.body), GOLDEN_SEALED);
    assert_eq!(body_with_keys(&record, &Keys).unwrap(), &br#"{"a":1}"#[..]);
}

const GOLDEN_SEALED: &str =
    "0102030405060708090a0b0cc05e89bc50db9f63a1be6af4f29329f4a046145adb46e8";

#[test]
fn golden_compressed_body() {
    // 16 bytes "ab": two literals, then a match of 14 at distance 2, then five literals, as the
    // block format demands of a block's end.
    let record = Record {
        body: hex("10000000 25 6162 0200 50 6261626162").into(),
        compression: Compression::Lz4.into(),
        ..Default::default()
    };
    assert_eq!(body(&record).unwrap(), &b"ababababababababa"[..16]);
}

/// Field 2000, length-delimited; field 2001, a varint; fields 2002 and 2003 of 4 and 8 bytes.
const UNKNOWN: &str = "827d03616263887d05957d04030201997d0807060504030201";

#[test]
fn unknown_fields_are_kept() {
    let mut bytes = message(&b"1"[..]).encode_to_vec();
    bytes.extend(hex(UNKNOWN));
    let read = Record::decode(&*bytes).unwrap();
    assert_eq!(to_hex(&read.unknown), UNKNOWN);
    assert_eq!(read.encoded_len(), bytes.len());
    assert_eq!(read.encode_to_vec(), bytes);
    // Also where they stand in front, and inside the origin.
    let front = [hex(UNKNOWN), message(&b"1"[..]).encode_to_vec()].concat();
    assert_eq!(Record::decode(&*front), Ok(read));
    let mut nested = message(&b"1"[..]);
    nested.origin.get_or_insert_default().unknown = hex(UNKNOWN);
    let again = Record::decode(&*nested.encode_to_vec()).unwrap();
    assert_eq!(again, nested);
}

#[test]
fn an_erased_record_keeps_what_is_unknown() {
    let mut bytes = message(&b"1"[..]).encode_to_vec();
    bytes.extend(hex(UNKNOWN));
    let mut erased = message(&b""[..]);
    erased.tags.clear();
    erased.flags = flags::ERASED;
    erased.unknown = hex(UNKNOWN);
    let kept = erase_encoded(&bytes).unwrap();
    assert_eq!(Record::decode(&*kept), Ok(erased.clone()));
    let again = erase_encoded(&kept).unwrap();
    assert_eq!(
        (again.len(), Record::decode(&*again)),
        (kept.len(), Ok(erased))
    );
}

#[test]
fn unknown_kinds_are_kept() {
    let mut unknown = message(&b"1"[..]);
    unknown.kind = 99;
    let read = Record::decode(&*unknown.encode_to_vec()).unwrap();
    assert_eq!((read.kind, read.takes_offset()), (99, false));
}

#[test]
fn only_bodies_that_gain_are_compressed() {
    let small = compressed(vec![b'a'; COMPRESS_BYTES_MIN - 1]);
    assert_eq!(small.compression(), Compression::None);
    let large = compressed(vec![b'a'; COMPRESS_BYTES_MIN]);
    assert_eq!(large.compression(), Compression::Lz4);
    assert!(large.body.len() < 64);
    assert_eq!(body(&large).unwrap(), vec![b'a'; COMPRESS_BYTES_MIN]);
    let mut state = 1u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(4096)
    .collect();
    let noisy = compressed(noise.clone());
    assert_eq!(
        (noisy.compression(), &noisy.body[..]),
        (Compression::None, &noise[..])
    );
    let twice = {
        let mut record = large.clone();
        compress_body(&mut record);
        record
    };
    assert_eq!(twice, large);
}

#[test]
fn hostile_lengths_are_refused_before_anything_is_allocated() {
    let lz4 = |bytes: &str| {
        body(&Record {
            body: hex(bytes).into(),
            compression: Compression::Lz4.into(),
            ..Default::default()
        })
    };
    assert_eq!(
        lz4("ffffffff 10 61"),
        Err(BodyError::TooLarge {
            claimed: u32::MAX as usize,
            max: 510
        })
    );
    let large = Record {
        body: [&[1, 0, 0, 1][..], &[0xff; 1 << 20]].concat().into(),
        compression: Compression::Lz4.into(),
        ..Default::default()
    };
    assert_eq!(
        body(&large),
        Err(BodyError::TooLarge {
            claimed: BODY_BYTES_MAX + 1,
            max: BODY_BYTES_MAX
        })
    );
    for damaged in [
        "",
        "0100",
        "05000000 10 61",
        "01000000",
        "01000000 20 6161",
        "09000000 146109000000",
    ] {
        let error = lz4(damaged).unwrap_err();
        assert!(
            matches!(
                error,
                BodyError::Damaged { .. } | BodyError::TooLarge { .. }
            ),
            "{damaged}: {error}"
        );
    }
    let newer = Record {
        compression: 9,
        ..Default::default()
    };
    assert_eq!(
        body(&newer),
        Err(BodyError::UnknownCompression { compression: 9 })
    );
}

#[test]
fn a_sealed_body_needs_its_key() {
    let mut record = compressed(vec![b'a'; 600]);
    seal_body(&mut record, 1, &seal_key(), NONCE).unwrap();
    assert!(!record.body.windows(4).any(|w| w == b"aaaa"));
    assert_eq!(body(&record), Err(BodyError::Sealed { key_id: 1 }));
    assert_eq!(body_with_keys(&record, &Keys).unwrap(), vec![b'a'; 600]);
    let keys: &dyn KeyRing = &Keys;
    assert!(body_with_keys(&record, keys).is_ok());

    let mut destroyed = message(&b"1"[..]);
    seal_body(&mut destroyed, 2, &seal_key(), NONCE).unwrap();
    assert_eq!(
        body_with_keys(&destroyed, &Keys),
        Err(BodyError::KeyDestroyed {
            instance: "demo".into(),
            key_id: 2
        })
    );
}

#[test]
fn a_sealed_body_stays_in_its_place() {
    let mut record = message(&b"secret"[..]);
    seal_body(&mut record, 1, &seal_key(), NONCE).unwrap();
    let changes: [fn(&mut Record); 5] = [
        |r| r.channel = "room:2".into(),
        |r| r.offset += 1,
        |r| r.generation += 1,
        |r| {
            r.instance = "demor".into();
            r.channel = "oom:1".into();
        },
        |r| r.body.clear(),
    ];
    /// Every instance has key 1 here.
    struct Anybody;
    impl KeyRing for Anybody {
        fn key(&self, _: &str, _: u32) -> Option<[u8; 32]> {
            Some(KEY)
        }
    }
    assert!(body_with_keys(&record, &Anybody).is_ok());
    for (number, change) in changes.iter().enumerate() {
        let mut moved = record.clone();
        change(&mut moved);
        let got = body_with_keys(&moved, &Anybody);
        assert!(
            matches!(got, Err(BodyError::Unauthentic { .. })),
            "{number}"
        );
    }
}

#[test]
fn a_record_is_sealed_once_and_under_a_real_key_id() {
    let mut record = message(&b"1"[..]);
    let refused = seal_body(&mut record, 0, &seal_key(), NONCE);
    assert!(matches!(refused, Err(BodyError::NotSealable { .. })));
    assert_eq!(record, message(&b"1"[..]));
    seal_body(&mut record, 1, &seal_key(), NONCE).unwrap();
    let sealed = record.clone();
    let refused = seal_body(&mut record, 1, &seal_key(), NONCE);
    assert!(matches!(refused, Err(BodyError::NotSealable { .. })));
    compress_body(&mut record);
    assert_eq!(record, sealed);
}

#[test]
fn an_erased_body_is_empty_whatever_it_was() {
    let mut record = compressed(vec![b'a'; 600]);
    seal_body(&mut record, 2, &seal_key(), NONCE).unwrap();
    record.body = Bytes::new();
    record.flags |= flags::ERASED;
    assert_eq!(body(&record), Ok(Bytes::new()));
    assert_eq!(body_with_keys(&record, &Keys), Ok(Bytes::new()));
}

proptest! {
    #[test]
    fn bodies_round_trip(piece in vec(any::<u8>(), 0..64), times in 0usize..64, seal in any::<bool>()) {
        let written = Bytes::from(piece.repeat(times));
        let mut record = compressed(written.clone());
        if seal {
            seal_body(&mut record, 1, &seal_key(), NONCE).unwrap();
        }
        let read = Record::decode(&*record.encode_to_vec()).unwrap();
        prop_assert_eq!(body_with_keys(&read, &Keys), Ok(written));
    }

    #[test]
    fn damaged_bodies_never_pass_for_whole(
        piece in vec(any::<u8>(), 1..64),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let mut record = compressed(piece.repeat(40));
        seal_body(&mut record, 1, &seal_key(), NONCE).unwrap();
        let mut bytes = record.body.to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        record.body = bytes.into();
        let read = body_with_keys(&record, &Keys);
        let unauthentic = matches!(read, Err(BodyError::Unauthentic { .. }));
        prop_assert!(unauthentic);
    }

    /// Fields in any order, repeated, unknown: what an edit of the bytes leaves is what an edit of
    /// the record leaves.
    #[test]
    fn erasing_bytes_and_erasing_records_is_the_same(
        parts in vec((0usize..4, 0u32..64, vec(any::<u8>(), 0..6)), 0..12),
    ) {
        let mut bytes = Vec::new();
        for (what, number, data) in parts {
            let part = match what {
                0 => message(data).encode_to_vec(),
                1 => Record { flags: number, ..Default::default() }.encode_to_vec(),
                2 => hex(UNKNOWN),
                _ => Record { key_id: number, compression: 1, ..Default::default() }.encode_to_vec(),
            };
            bytes.extend(part);
        }
        let mut erased = Record::decode(&*bytes).unwrap();
        erased.body.clear();
        erased.tags.clear();
        erased.compression = 0;
        erased.key_id = 0;
        erased.flags |= flags::ERASED;
        let edited = erase_encoded(&bytes).unwrap();
        prop_assert_eq!(Record::decode(&*edited), Ok(erased));
    }

    #[test]
    fn garbage_is_an_error_or_a_record(bytes in vec(any::<u8>(), 0..300)) {
        gb6_core_wire::fuzz::record(&bytes);
        let record = Record {
            body: bytes.into(),
            compression: Compression::Lz4.into(),
            ..Default::default()
        };
        let _ = body(&record);
    }
}
