//! What an edge counts. Every bound of this crate has its counter here.

use gb6_core_obs::{Counter, CounterFamily, Gauge, GaugeFamily, Label, Metrics};

/// The metrics of one edge.
#[derive(Clone, Debug)]
pub(crate) struct EdgeMetrics {
    /// Connections accepted.
    pub(crate) accepted: Counter,
    /// Connections open.
    pub(crate) connections: Gauge,
    /// The most that may be open.
    pub(crate) connections_max: Gauge,
    /// Connections refused because that many are open.
    pub(crate) refused_full: Counter,
    /// Connections refused because one address or instance has too many, by which.
    pub(crate) over_limit: CounterFamily,
    /// Sessions that wait for their turn to begin.
    pub(crate) connects_waiting: Gauge,
    /// Connections that have not shown who they are.
    pub(crate) half_open: Gauge,
    /// Such connections dropped, by why: `evicted` for a newer one, `timeout`.
    pub(crate) half_open_dropped: CounterFamily,
    /// Failed accepts, by kind.
    pub(crate) accept_errors: CounterFamily,
    /// TLS handshakes over TCP, by what became of them: `done`, `failed`, `plain` where the client
    /// spoke none.
    pub(crate) handshakes: CounterFamily,
    /// QUIC handshakes, by what became of them: `done`, `failed`, `retry` where the address was
    /// to be proved first, `refused` where no place was free.
    pub(crate) quic_handshakes: CounterFamily,
    /// Certificates for clients that were loaded, by result: `used`, `refused`.
    pub(crate) certificate_loads: CounterFamily,
    /// Until when the certificate is valid, in Unix seconds.
    pub(crate) certificate_expires: Gauge,
    /// HTTP answers, by status.
    pub(crate) http: CounterFamily,
    /// WebSocket upgrades, streams and requests of pages refused, by why.
    pub(crate) upgrades_refused: CounterFamily,
    /// Sessions open, by transport and dialect.
    pub(crate) sessions: GaugeFamily,
    /// Sessions ended, by close code.
    pub(crate) closed: CounterFamily,
    /// Tokens refused at connect or refresh, by why.
    pub(crate) tokens_refused: CounterFamily,
    /// Refused frames and tokens, and sessions ended for what their client sent, that are not in
    /// the log at level info because there were too many.
    pub(crate) unlogged: Counter,
    /// Shards' tasks that panicked.
    pub(crate) shard_panics: Counter,
    /// Sessions ended because their queue was full.
    pub(crate) slow: Counter,
    /// Bytes read from clients' sessions.
    pub(crate) bytes_in: Counter,
    /// Bytes written to clients' sessions.
    pub(crate) bytes_out: Counter,
    /// Writes: bytes and frames divided by it show how well deliveries share a write.
    pub(crate) writes: Counter,
    /// Tokens given out by `/dev/token`.
    pub(crate) dev_tokens: Counter,
    /// Requests refused because a shard's inbox was full.
    pub(crate) inbox_full: Counter,
    /// Lots of commands for sessions that came by other connections, by what became of them.
    pub(crate) emulated: CounterFamily,
    /// Questions to edges, counted once for each edge asked, by how they ended.
    pub(crate) relay_questions: CounterFamily,
    /// Answers to other edges, by whether they were sent.
    pub(crate) relay_answers: CounterFamily,
    /// Frames of relays that fitted nothing.
    pub(crate) relay_stray: Counter,
    /// Requests to the server API, by method.
    pub(crate) api_requests: CounterFamily,
    /// Requests to the server API answered with an error, by its code.
    pub(crate) api_errors: CounterFamily,
    /// Commands of the server API that reached a session, by what became of them.
    pub(crate) api_commands: CounterFamily,
    /// Questions about users, by how many edges were asked.
    pub(crate) api_user_questions: CounterFamily,
    /// Requests to the server API without a valid key.
    pub(crate) api_unauthorized: Counter,
}

impl EdgeMetrics {
    /// Registers everything.
    pub(crate) fn new(m: &Metrics) -> Self {
        Self {
            accepted: m.counter("gb6_edge_accepted_total", "Client connections accepted."),
            connections: m.gauge("gb6_edge_connections", "Client connections open."),
            connections_max: m.gauge(
                "gb6_edge_connections_max",
                "Client connections that may be open at once.",
            ),
            refused_full: m.counter(
                "gb6_edge_refused_full_total",
                "Connections refused because as many as allowed were open.",
            ),
            over_limit: m.counter_family(
                "gb6_edge_over_limit_total",
                "Connections refused (3504) because their address or instance has too many.",
                &[Label::new("of", 4)],
            ),
            connects_waiting: m.gauge(
                "gb6_edge_connects_waiting",
                "Sessions that wait for their turn to begin, because many begin at once.",
            ),
            half_open: m.gauge(
                "gb6_edge_half_open",
                "Connections that have not shown a valid token.",
            ),
            half_open_dropped: m.counter_family(
                "gb6_edge_half_open_dropped_total",
                "Connections dropped before they showed who they are.",
                &[Label::new("why", 4)],
            ),
            accept_errors: m.counter_family(
                "gb6_edge_accept_errors_total",
                "Failed accepts; the listener goes on.",
                &[Label::new("kind", 8)],
            ),
            handshakes: m.counter_family(
                "gb6_edge_tls_handshakes_total",
                "TLS handshakes over TCP, by result; plain: the client spoke no TLS.",
                &[Label::new("result", 4)],
            ),
            quic_handshakes: m.counter_family(
                "gb6_edge_quic_handshakes_total",
                "QUIC handshakes, by result; retry: the address was to be proved first.",
                &[Label::new("result", 4)],
            ),
            certificate_loads: m.counter_family(
                "gb6_edge_certificate_loads_total",
                "Certificates for clients loaded; a refused one leaves the last good one in use.",
                &[Label::new("result", 4)],
            ),
            certificate_expires: m.gauge(
                "gb6_edge_certificate_expires_seconds",
                "Unix time at which the certificate for clients ends; 0: there is none.",
            ),
            http: m.counter_family(
                "gb6_edge_http_responses_total",
                "HTTP answers.",
                &[Label::new("status", 32)],
            ),
            upgrades_refused: m.counter_family(
                "gb6_edge_upgrades_refused_total",
                "Sessions refused before they began.",
                &[Label::new("why", 16)],
            ),
            sessions: m.gauge_family(
                "gb6_edge_sessions",
                "Sessions open.",
                &[Label::new("transport", 16), Label::new("dialect", 4)],
            ),
            closed: m.counter_family(
                "gb6_edge_closed_total",
                "Sessions ended, by the close code (0: without one).",
                &[Label::new("code", 64)],
            ),
            tokens_refused: m.counter_family(
                "gb6_edge_tokens_refused_total",
                "Tokens refused at connect or refresh, by why.",
                &[Label::new("reason", 16)],
            ),
            unlogged: m.counter(
                "gb6_edge_unlogged_total",
                "Refusals that are in the log at level debug only, because there were too many.",
            ),
            shard_panics: m.counter(
                "gb6_edge_shard_panics_total",
                "Tasks of shards that panicked, a defect of GB6: their sessions were told to reconnect.",
            ),
            slow: m.counter(
                "gb6_edge_slow_total",
                "Sessions ended because the client did not read (3008).",
            ),
            bytes_in: m.counter(
                "gb6_edge_bytes_in_total",
                "Bytes read from clients' sessions.",
            ),
            bytes_out: m.counter(
                "gb6_edge_bytes_out_total",
                "Bytes written to clients' sessions.",
            ),
            writes: m.counter(
                "gb6_edge_writes_total",
                "Writes to clients' sessions: several frames may share one.",
            ),
            dev_tokens: m.counter(
                "gb6_edge_dev_tokens_total",
                "Tokens given out by /dev/token.",
            ),
            inbox_full: m.counter(
                "gb6_edge_shard_inbox_full_total",
                "Requests answered 111 because a shard's inbox was full.",
            ),
            emulated: m.counter_family(
                "gb6_edge_emulated_total",
                "Lots of commands for a session that came by /emulation, here or at another edge: \
                 taken, full (the session is ended), or for nobody.",
                &[Label::new("outcome", 4)],
            ),
            relay_questions: m.counter_family(
                "gb6_edge_relay_questions_total",
                "Questions to edges, once for each edge asked, by outcome.",
                &[Label::new("outcome", 8)],
            ),
            relay_answers: m.counter_family(
                "gb6_edge_relay_answers_total",
                "Answers to questions of other edges: sent, or dropped because the relay is behind.",
                &[Label::new("outcome", 2)],
            ),
            relay_stray: m.counter(
                "gb6_edge_relay_stray_frames_total",
                "Frames of relays that fitted nothing: answers that came too late among them.",
            ),
            api_requests: m.counter_family(
                "gb6_edge_api_requests_total",
                "Requests to the server API.",
                &[Label::new("method", 64)],
            ),
            api_errors: m.counter_family(
                "gb6_edge_api_errors_total",
                "Requests to the server API answered with an error, by its code.",
                &[Label::new("code", 32)],
            ),
            api_commands: m.counter_family(
                "gb6_edge_api_commands_total",
                "Commands of the server API that reached a session: done or refused by it.",
                &[Label::new("outcome", 4)],
            ),
            api_user_questions: m.counter_family(
                "gb6_edge_api_user_questions_total",
                "Questions about a user: to some edges, those that have it; or to all.",
                &[Label::new("edges", 2)],
            ),
            api_unauthorized: m.counter(
                "gb6_edge_api_unauthorized_total",
                "Requests to the server API whose key was missing or not valid (401).",
            ),
        }
    }
}
