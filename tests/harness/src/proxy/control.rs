//! The proxy by lines of text, for tests in other languages.

use std::time::Duration;

use super::{FaultProxy, Mode};

/// Why a line was not obeyed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ControlError {
    /// No such command.
    #[error(
        "no command {0:?}; commands are: pass, blackhole, delay MS, throttle BYTES, refuse, close, target ADDRESS, stats, quit"
    )]
    Unknown(String),
    /// The command's argument is missing or wrong.
    #[error("{command} needs {needs}")]
    Argument {
        /// The command.
        command: &'static str,
        /// What it needs.
        needs: &'static str,
    },
}

/// Does what one line says: `Ok(None)` ends the program, anything else is the answer to print.
///
/// # Errors
/// The line is no command.
pub fn obey(proxy: &FaultProxy, line: &str) -> Result<Option<String>, ControlError> {
    let mut words = line.split_whitespace();
    let command = words.next().unwrap_or_default();
    let argument = words.next();
    let number = |command, needs| {
        let parsed = argument.and_then(|a| a.parse::<u64>().ok());
        parsed.ok_or(ControlError::Argument { command, needs })
    };
    match command {
        "pass" => proxy.set(Mode::Pass),
        "blackhole" => proxy.set(Mode::BlackHole),
        "refuse" => proxy.set(Mode::Refuse),
        "delay" => {
            let ms = number("delay", "a number of milliseconds")?;
            proxy.set(Mode::Delay(Duration::from_millis(ms)));
        }
        "throttle" => {
            let rate = number("throttle", "a number of bytes a second")?;
            proxy.set(Mode::Throttle(rate));
        }
        "close" => proxy.close_all(),
        "target" => {
            let target = argument.and_then(|a| a.parse().ok());
            proxy.set_target(target.ok_or(ControlError::Argument {
                command: "target",
                needs: "an address as in 127.0.0.1:8080",
            })?);
        }
        "stats" => {
            let s = proxy.stats();
            return Ok(Some(format!(
                "{{\"accepted\":{},\"open\":{},\"passed\":{},\"swallowed\":{}}}",
                s.accepted, s.open, s.passed, s.swallowed
            )));
        }
        "quit" => return Ok(None),
        other => return Err(ControlError::Unknown(other.to_owned())),
    }
    Ok(Some("ok".to_owned()))
}
