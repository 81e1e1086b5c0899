//! The URIs that name engines, read in one way for all of them:
//! `SCHEME://USER:PASSWORD@HOST:PORT,HOST:PORT/PATH?OPTION=VALUE&…`.
//!
//! User, password, path and the values of options are percent-encoded (RFC 3986 section 2.1). A file may hold
//! the password (`password_file`). An option that nobody asks for is an error. What is wrong is said in
//! words, without anything that may be a part of a password; who parses adds a good URI.

mod address;
mod login;
mod options;
#[cfg(test)]
mod tests;

pub use address::{ADDRESSES_MAX, Address, addresses};
pub use login::{Login, PASSWORD_BYTES_MAX, Password, Secret};
pub use options::{OPTIONS_MAX, Options, number};

/// Longest URI in bytes.
pub const URI_BYTES_MAX: usize = 8192;

/// What a URI with hosts says, before an engine gives it a meaning. `Debug` hides the password.
#[derive(Debug)]
pub struct Uri {
    /// What stands before `://`.
    pub scheme: String,
    user: String,
    password: Option<Secret>,
    hosts: String,
    /// What stands behind the first `/` after the hosts, decoded; empty where nothing does.
    pub path: String,
    /// What stands behind the `?`.
    pub options: Options,
}

impl Uri {
    /// Takes a URI apart. The login ends at the last `@` before the `?`, so that a password may hold any
    /// character but `%` and `?` as it is.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > URI_BYTES_MAX {
            return Err(format!("it is longer than {URI_BYTES_MAX} bytes"));
        }
        let (scheme, rest) = text.split_once("://").ok_or("it has no ://")?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        if query.contains('@') {
            // Of a password perhaps, of which nothing may be shown.
            return Err("an @ behind the ? is written %40, and a ? in a password %3F".to_owned());
        }
        let (login, place) = place.rsplit_once('@').unwrap_or(("", place));
        let (hosts, path) = place.split_once('/').unwrap_or((place, ""));
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (user, Some(decoded(password)?)),
            None => (login, None),
        };
        Ok(Self {
            scheme: scheme.to_owned(),
            user: decoded(user)?,
            password: password.filter(|text| !text.is_empty()).map(Secret::new),
            hosts: hosts.to_owned(),
            path: decoded(path)?,
            options: Options::parse(query)?,
        })
    }

    /// Its hosts, of which there is one at least; `port` is that of hosts without one.
    ///
    /// # Errors
    /// They are none, or more than [`ADDRESSES_MAX`].
    pub fn addresses(&self, port: Option<u16>) -> Result<Vec<Address>, String> {
        addresses(&self.hosts, port)
    }

    /// Who logs in: what stands before the hosts, and the option `password_file`.
    ///
    /// # Errors
    /// There are two passwords.
    pub fn login(&mut self) -> Result<Login, String> {
        let file = self.options.path("password_file")?;
        let password = match (self.password.clone(), file) {
            (Some(_), Some(_)) => {
                return Err("it has both a password and a password_file: leave one out".to_owned());
            }
            (Some(given), None) => Some(Password::Given(given)),
            (None, file) => file.map(Password::File),
        };
        Ok(Login {
            user: self.user.clone(),
            password,
        })
    }
}

/// What a percent-encoded text stands for.
///
/// # Errors
/// It is none.
pub fn decoded(text: &str) -> Result<String, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => out.push((high * 16 + low) as u8),
            _ => {
                let wrong = "a % in it begins no two hexadecimal digits: write %25 for a %";
                return Err(wrong.to_owned());
            }
        }
    }
    String::from_utf8(out).map_err(|_| "what is percent-encoded in it is not UTF-8".to_owned())
}
