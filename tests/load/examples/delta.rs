//! What a delta costs and saves: a JSON state of 2 kB of which three fields change with every
//! publication, in both formats. `cargo run --release -p gb6-tests-load --example delta`

use std::hint::black_box;
use std::time::Instant;

use gb6_core_wire::client::{
    ChannelRef, Dialect, Event, PublicationData, encode_live, json_text_of,
};
use gb6_core_wire::fossil;
use gb6_core_wire::mesh::Publication;
use gb6_core_wire::record::ContentType;

const PUBLICATIONS: usize = 20_000;

/// A game's state: twenty players, of whom one scores, at another minute.
fn state(n: usize) -> String {
    let players: Vec<String> = (0..20)
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

fn main() {
    let states: Vec<String> = (0..PUBLICATIONS).map(state).collect();
    let average = states.iter().map(String::len).sum::<usize>() / states.len();
    println!("state: {average} bytes, 3 fields change, {PUBLICATIONS} publications");
    let began = Instant::now();
    let mut bytes = 0;
    for pair in states.windows(2) {
        let delta = fossil::make(black_box(pair[0].as_bytes()), black_box(pair[1].as_bytes()));
        bytes += delta.map_or(pair[1].len(), |delta| delta.len());
    }
    let each = began.elapsed().as_secs_f64() * 1e6 / (PUBLICATIONS - 1) as f64;
    println!(
        "delta alone: {each:.2} us a publication, {:.1} % of the bytes",
        100.0 * bytes as f64 / (average * (PUBLICATIONS - 1)) as f64
    );
    for dialect in Dialect::ALL {
        let (mut plain, mut small, mut seconds) = (0, 0, 0.0);
        for pair in states.windows(2) {
            let publication = |data: &str| Publication {
                offset: 1_000_000,
                time: 1_800_000_000_000,
                data: data.to_owned().into(),
                content_type: ContentType::Json.into(),
                ..Publication::default()
            };
            let (base, next) = (publication(&pair[0]), publication(&pair[1]));
            let channel = ChannelRef::Id(7);
            let whole = Event::Publication(&next, PublicationData::Plain);
            plain += encode_live(dialect, channel, whole).len();
            let began = Instant::now();
            let text = json_text_of(&next.data, next.content_type());
            let delta = fossil::make(&base.data, &next.data);
            let data = match &delta {
                Some(delta) => PublicationData::Delta(delta),
                None => PublicationData::Whole(&text),
            };
            let frame = encode_live(dialect, channel, Event::Publication(&next, data));
            seconds += began.elapsed().as_secs_f64();
            small += black_box(frame).len();
        }
        println!(
            "{}: {:.2} us a publication with its frame, {:.1} % of the bytes",
            dialect.name(),
            seconds * 1e6 / (PUBLICATIONS - 1) as f64,
            100.0 * small as f64 / plain as f64
        );
    }
}
