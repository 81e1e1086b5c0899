//! What a delta costs and saves: a JSON state of 2 kB of which three fields change with every
//! publication. It is the work that an edge does once for a room and encoding, whoever subscribes.

use std::fmt;
use std::hint::black_box;

use gb6_core_wire::client::{
    ChannelRef, Dialect, Event, PublicationData, encode_live, json_text_of,
};
use gb6_core_wire::fossil;
use gb6_core_wire::mesh::Publication;
use gb6_core_wire::record::ContentType;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::histogram::{Histogram, Latency};

/// Of deltas in one encoding.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct DeltaFigures {
    /// The encoding.
    pub protocol: &'static str,
    /// Bytes of the state, on average.
    pub state_bytes: f64,
    /// Processor time of a publication: its delta and the frame with it.
    pub cpu: Latency,
    /// Bytes of the frames with deltas by those of frames with the whole state.
    pub bytes_ratio: f64,
}

impl fmt::Display for DeltaFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "delta, {}: state of {:.0} bytes, {:.1} % of the bytes; CPU of a publication and its frame: mean {:.2} us, {}",
            self.protocol,
            self.state_bytes,
            100.0 * self.bytes_ratio,
            self.cpu.mean_us,
            self.cpu
        )
    }
}

/// A game's state: twenty-two players, of whom one scores and one moves, at another minute.
fn state(n: usize) -> String {
    let players: Vec<String> = (0..22)
        .map(|player| {
            let score = if player == 7 { n } else { player * 31 };
            let moves = if player == 13 { n / 3 } else { player };
            format!(
                r#"{{"id":{player},"name":"Spieler Nr. {player} aus Köln","team":"blue","score":{score},"moves":{moves},"alive":true}}"#
            )
        })
        .collect();
    format!(
        r#"{{"minute":{},"players":[{}]}}"#,
        n % 90,
        players.join(",")
    )
}

/// Processor time of this thread in nanoseconds: what others on this machine do is not in it.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Makes so many deltas in each encoding.
pub(crate) fn run(publications: usize) -> [DeltaFigures; 2] {
    Dialect::ALL.map(|dialect| {
        let mut cpu = Histogram::default();
        let (mut whole_bytes, mut delta_bytes, mut state_bytes) = (0.0, 0.0, 0.0);
        let publication = |n| Publication {
            offset: 1_000_000 + n as u64,
            time: 1_800_000_000_000,
            data: state(n).into(),
            content_type: ContentType::Json.into(),
            ..Publication::default()
        };
        let mut base = publication(0);
        for n in 1..=publications.max(1) {
            let next = publication(n);
            let channel = ChannelRef::Id(7);
            let plain = Event::Publication(&next, PublicationData::Plain);
            whole_bytes += encode_live(dialect, channel, plain).len() as f64;
            state_bytes += next.data.len() as f64;
            let began = cpu_ns();
            let frame = frame(dialect, channel, &base, &next);
            cpu.record(cpu_ns() - began);
            delta_bytes += black_box(frame).len() as f64;
            base = next;
        }
        DeltaFigures {
            protocol: dialect.name(),
            state_bytes: state_bytes / publications.max(1) as f64,
            cpu: cpu.summary(),
            bytes_ratio: delta_bytes / whole_bytes,
        }
    })
}

/// The frame for subscribers who have `base`.
fn frame(
    dialect: Dialect,
    channel: ChannelRef<'_>,
    base: &Publication,
    next: &Publication,
) -> bytes::Bytes {
    // In JSON a delta is of texts, which is what subscribers keep.
    let text = json_text_of(&next.data, next.content_type());
    let delta = fossil::make(&base.data, &next.data);
    let data = match &delta {
        Some(delta) => PublicationData::Delta(delta),
        None => PublicationData::Whole(&text),
    };
    encode_live(dialect, channel, Event::Publication(next, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_fields_of_a_state_change_and_a_fifth_of_the_bytes_is_enough() {
        let changed = |a: &str, b: &str| {
            let both = a.split([',', '{', '}']).zip(b.split([',', '{', '}']));
            both.filter(|(a, b)| a != b).count()
        };
        assert_eq!(changed(&state(302), &state(303)), 3);
        for figures in run(200) {
            assert!(
                (1_950.0..2_150.0).contains(&figures.state_bytes),
                "{figures}"
            );
            assert!((0.001..=0.2).contains(&figures.bytes_ratio), "{figures}");
            assert_eq!(figures.cpu.count, 200);
        }
    }
}
