//! Protobuf messages that keep the fields which they do not know. What a derived message drops when
//! it is read would be gone from the log as soon as a record is written again: on its way to another
//! shard, for example.

use prost::DecodeError;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, bytes, fixed32, fixed64, skip_field, uint64};

/// How one kind of field is written: nothing where it has its default.
macro_rules! kind {
    ($name:ident, $type:ty, $is_default:expr) => {
        pub(crate) mod $name {
            use prost::encoding::$name;

            pub(crate) use prost::encoding::$name::merge;

            pub(crate) fn encode(tag: u32, value: &$type, buf: &mut impl prost::bytes::BufMut) {
                if !$is_default(value) {
                    $name::encode(tag, value, buf);
                }
            }

            pub(crate) fn encoded_len(tag: u32, value: &$type) -> usize {
                match $is_default(value) {
                    true => 0,
                    false => $name::encoded_len(tag, value),
                }
            }
        }
    };
}

/// Kinds of fields, by the names that [`message`] is given.
pub(crate) mod kinds {
    kind!(uint32, u32, |v: &u32| *v == 0);
    kind!(uint64, u64, |v: &u64| *v == 0);
    kind!(int32, i32, |v: &i32| *v == 0);
    kind!(int64, i64, |v: &i64| *v == 0);
    kind!(fixed64, u64, |v: &u64| *v == 0);
    kind!(string, String, |v: &String| v.is_empty());
    kind!(bytes, ::bytes::Bytes, |v: &::bytes::Bytes| v.is_empty());

    /// A message that may be missing.
    pub(crate) mod optional {
        use prost::bytes::{Buf, BufMut};
        use prost::encoding::{DecodeContext, WireType, message};
        use prost::{DecodeError, Message};

        pub(crate) fn encode<M: Message>(tag: u32, value: &Option<M>, buf: &mut impl BufMut) {
            if let Some(value) = value {
                message::encode(tag, value, buf);
            }
        }

        pub(crate) fn encoded_len<M: Message>(tag: u32, value: &Option<M>) -> usize {
            value.as_ref().map_or(0, |v| message::encoded_len(tag, v))
        }

        pub(crate) fn merge<M: Message + Default>(
            wire_type: WireType,
            value: &mut Option<M>,
            buf: &mut impl Buf,
            ctx: DecodeContext,
        ) -> Result<(), DecodeError> {
            message::merge(wire_type, value.get_or_insert_default(), buf, ctx)
        }
    }

    /// A map from strings to strings.
    pub(crate) mod strings {
        use std::collections::BTreeMap;

        use prost::DecodeError;
        use prost::bytes::{Buf, BufMut};
        use prost::encoding::{DecodeContext, WireType, btree_map, string};

        type Strings = BTreeMap<String, String>;

        pub(crate) fn encode(tag: u32, value: &Strings, buf: &mut impl BufMut) {
            btree_map::encode(
                string::encode,
                string::encoded_len,
                string::encode,
                string::encoded_len,
                tag,
                value,
                buf,
            );
        }

        pub(crate) fn encoded_len(tag: u32, value: &Strings) -> usize {
            btree_map::encoded_len(string::encoded_len, string::encoded_len, tag, value)
        }

        pub(crate) fn merge(
            wire_type: WireType,
            value: &mut Strings,
            buf: &mut impl Buf,
            ctx: DecodeContext,
        ) -> Result<(), DecodeError> {
            // A map's entry is always length-delimited.
            prost::encoding::check_wire_type(WireType::LengthDelimited, wire_type)?;
            btree_map::merge(string::merge, string::merge, value, buf, ctx)
        }
    }

    /// Many numbers in one field.
    pub(crate) mod packed {
        use prost::bytes::BufMut;
        use prost::encoding::uint32;

        pub(crate) use prost::encoding::uint32::merge_repeated as merge;

        pub(crate) fn encode(tag: u32, value: &[u32], buf: &mut impl BufMut) {
            uint32::encode_packed(tag, value, buf);
        }

        pub(crate) fn encoded_len(tag: u32, value: &[u32]) -> usize {
            uint32::encoded_len_packed(tag, value)
        }
    }
}

/// Adds a field that is not known to those that were met before, as it is encoded. (A group, which
/// proto3 does not have, is passed over.)
pub(crate) fn keep(
    tag: u32,
    wire_type: WireType,
    unknown: &mut Vec<u8>,
    buf: &mut impl Buf,
    ctx: DecodeContext,
) -> Result<(), DecodeError> {
    match wire_type {
        WireType::Varint => {
            let mut value = 0;
            uint64::merge(wire_type, &mut value, buf, ctx)?;
            uint64::encode(tag, &value, unknown);
        }
        WireType::SixtyFourBit => {
            let mut value = 0;
            fixed64::merge(wire_type, &mut value, buf, ctx)?;
            fixed64::encode(tag, &value, unknown);
        }
        WireType::ThirtyTwoBit => {
            let mut value = 0;
            fixed32::merge(wire_type, &mut value, buf, ctx)?;
            fixed32::encode(tag, &value, unknown);
        }
        WireType::LengthDelimited => {
            let mut value = Vec::new();
            bytes::merge(wire_type, &mut value, buf, ctx)?;
            bytes::encode(tag, &value, unknown);
        }
        WireType::StartGroup | WireType::EndGroup => skip_field(wire_type, tag, buf, ctx)?,
    }
    Ok(())
}

/// Makes a struct with a field `unknown: Vec<u8>` a Protobuf message, with the number, name and
/// kind of each field, in the order of the numbers. What it does not know stays in `unknown`, behind
/// the rest when it is written.
macro_rules! message {
    ($message:ident { $($tag:literal $field:ident: $kind:ident,)* }) => {
        impl prost::Message for $message {
            fn encode_raw(&self, buf: &mut impl prost::bytes::BufMut) {
                $(fields::kinds::$kind::encode($tag, &self.$field, buf);)*
                buf.put_slice(&self.unknown);
            }

            fn merge_field(
                &mut self,
                tag: u32,
                wire_type: prost::encoding::WireType,
                buf: &mut impl prost::bytes::Buf,
                ctx: prost::encoding::DecodeContext,
            ) -> Result<(), prost::DecodeError> {
                match tag {
                    $($tag => fields::kinds::$kind::merge(wire_type, &mut self.$field, buf, ctx),)*
                    _ => fields::keep(tag, wire_type, &mut self.unknown, buf, ctx),
                }
            }

            fn encoded_len(&self) -> usize {
                0 $(+ fields::kinds::$kind::encoded_len($tag, &self.$field))* + self.unknown.len()
            }

            fn clear(&mut self) {
                *self = Self::default();
            }
        }
    };
}
pub(crate) use message;
