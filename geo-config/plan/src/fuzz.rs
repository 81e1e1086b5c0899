//! Entry points for fuzzers: what a directory hands over, fed with anything. Each must return.
//! What a fuzzer finds becomes a file in `tests/corpus/`, which the tests replay.

use crate::directory::{settings_as_toml, settings_from_toml};

/// Any bytes as the settings of an instance.
///
/// # Panics
/// Good settings are others when they are read again.
pub fn instance_settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let id = "acme".into();
    if let Ok(toml) = settings_as_toml(text)
        && let Ok(kept) = settings_from_toml(&toml, &id, &[])
    {
        let again = settings_as_toml(&kept).map(|toml| settings_from_toml(&toml, &id, &[]));
        assert_eq!(
            again,
            Ok(Ok(kept)),
            "good settings are read as they are kept"
        );
    }
}
