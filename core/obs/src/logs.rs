//! Structured logs, always to stderr: stdout belongs to what a command was asked to print.

use std::io::{self, IsTerminal};
use std::str::FromStr;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::reload;

/// The environment variable that chooses what is logged, such as `info,gb6_edge_node=debug`.
pub const FILTER_VARIABLE: &str = "GB6_LOG";

/// How a log line looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// For people: one line each, coloured on a terminal.
    #[default]
    Human,
    /// For machines: one JSON object a line.
    Json,
}

/// Why the logs could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter makes no sense.
    #[error(
        "{source_name} holds {filter:?}, which is no log filter: {reason}; write a level (error, warn, info, debug, trace) or target=level, joined by commas"
    )]
    Filter {
        /// Where the filter came from: the name of the variable or key, or `the default`.
        source_name: &'static str,
        /// The filter.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The variable is not text.
    #[error("{FILTER_VARIABLE} is not valid UTF-8: set it to a log filter such as \"info\"")]
    NotText,
    /// The process has a subscriber already.
    #[error("logs were started before in this process")]
    Started,
    /// No format of that name.
    #[error("{0:?} is no log format: choose human or json")]
    Format(String),
}

impl FromStr for Format {
    type Err = LogError;

    fn from_str(s: &str) -> Result<Self, LogError> {
        match s {
            "human" => Ok(Format::Human),
            "json" => Ok(Format::Json),
            other => Err(LogError::Format(other.to_owned())),
        }
    }
}

/// Puts another filter in place of the one in force.
type Change = Box<dyn Fn(EnvFilter) + Send + Sync>;

/// That of this process, once its logs are started.
static CHANGE: OnceLock<Change> = OnceLock::new();

/// Starts the logs of this process, to stderr, with the filter in `GB6_LOG` or else
/// `default_filter`. Call it once, first thing in `main`.
///
/// # Errors
/// When the filter makes no sense, or logs were started before.
pub fn init(format: Format, default_filter: &str) -> Result<(), LogError> {
    let filter = match set_by_variable()? {
        Some(set) => parse_filter(FILTER_VARIABLE, &set)?,
        None => parse_filter("the default", default_filter)?,
    };
    let (subscriber, change) = subscriber(format, filter, io::stderr().is_terminal(), io::stderr);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Started)?;
    CHANGE.set(change).map_err(|_| LogError::Started)
}

/// Logs by another filter from now on, unless `GB6_LOG` says which one. `false`: it does.
///
/// # Errors
/// When the filter makes no sense; the one in force stays.
pub fn set_filter(filter: &str) -> Result<bool, LogError> {
    let filter = parse_filter("log.filter", filter)?;
    if set_by_variable()?.is_some() {
        return Ok(false);
    }
    if let Some(change) = CHANGE.get() {
        change(filter);
    }
    Ok(true)
}

/// The filter in `GB6_LOG`.
fn set_by_variable() -> Result<Option<String>, LogError> {
    match std::env::var(FILTER_VARIABLE) {
        Ok(set) => Ok(Some(set).filter(|set| !set.trim().is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(LogError::NotText),
    }
}

fn parse_filter(source_name: &'static str, filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|e| LogError::Filter {
            source_name,
            filter: filter.to_owned(),
            reason: e.to_string(),
        })
}

fn subscriber<W>(
    format: Format,
    filter: EnvFilter,
    colour: bool,
    writer: W,
) -> (Box<dyn tracing::Subscriber + Send + Sync>, Change)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    match format {
        Format::Human => {
            let builder = builder.with_ansi(colour).with_filter_reloading();
            let handle = builder.reload_handle();
            (Box::new(builder.finish()), change_by(handle))
        }
        Format::Json => {
            let builder = builder
                .json()
                .flatten_event(true)
                .with_current_span(true)
                .with_span_list(false)
                .with_filter_reloading();
            let handle = builder.reload_handle();
            (Box::new(builder.finish()), change_by(handle))
        }
    }
}

fn change_by<S: 'static>(handle: reload::Handle<EnvFilter, S>) -> Change {
    Box::new(move |filter| {
        // An error says that nothing is logged any more.
        let _ = handle.reload(filter);
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, filter: &str) -> String {
        let lines = Lines::default();
        let out = lines.clone();
        let filter = parse_filter("the default", filter).unwrap();
        let (subscriber, _) = subscriber(format, filter, false, move || out.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(room = "room:1", "kept");
            tracing::debug!("left out");
        });
        let bytes = lines.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn people_get_lines() {
        let text = logged(Format::Human, "info");
        assert!(
            text.contains("INFO") && text.contains("kept room=\"room:1\""),
            "{text}"
        );
        assert!(
            !text.contains("left out") && !text.contains('\u{1b}'),
            "{text}"
        );
    }

    #[test]
    fn machines_get_json() {
        let text = logged(Format::Json, "debug");
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["level"], "INFO");
        assert_eq!(lines[0]["message"], "kept");
        assert_eq!(lines[0]["room"], "room:1");
    }

    #[test]
    fn another_filter_is_in_force_at_once() {
        for format in [Format::Human, Format::Json] {
            let lines = Lines::default();
            let out = lines.clone();
            let filter = parse_filter("the default", "warn").unwrap();
            let (subscriber, change) = subscriber(format, filter, false, move || out.clone());
            tracing::subscriber::with_default(subscriber, || {
                for filter in ["info", "warn"] {
                    tracing::info!("before {filter}");
                    change(parse_filter("log.filter", filter).unwrap());
                }
                tracing::info!("at the end");
            });
            let text = String::from_utf8(lines.0.lock().clone()).unwrap();
            assert!(text.contains("before warn"), "{text}");
            assert!(
                !text.contains("before info") && !text.contains("at the end"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_bad_filter_is_explained() {
        let error = parse_filter(FILTER_VARIABLE, "info,x=loud")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("GB6_LOG holds \"info,x=loud\""),
            "{error}"
        );
        assert!(error.contains("trace"), "{error}");
    }

    #[test]
    fn formats_by_name() {
        assert_eq!("json".parse::<Format>().ok(), Some(Format::Json));
        assert!(
            "xml"
                .parse::<Format>()
                .unwrap_err()
                .to_string()
                .contains("human or json")
        );
    }
}
