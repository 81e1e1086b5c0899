//! Users and their passwords, which are shown nowhere.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

/// Longest password in bytes: a longer file is not one.
pub const PASSWORD_BYTES_MAX: usize = 4096;

/// Something secret: `Debug` hides it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text secret.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for whoever must send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Where a password is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Password {
    /// In the URI.
    Given(Secret),
    /// In this file.
    File(PathBuf),
}

impl Password {
    /// The password; that of a file is the file's text without the ends of lines behind it. Blocks.
    ///
    /// # Errors
    /// The file can not be read, or holds none.
    pub fn read(&self) -> Result<Secret, String> {
        let path = match self {
            Password::Given(secret) => return Ok(secret.clone()),
            Password::File(path) => path,
        };
        let mut text = String::new();
        let read = File::open(path).and_then(|file| {
            // Ends of lines, and a byte that shows that it is too long.
            let mut file = file.take(PASSWORD_BYTES_MAX as u64 + 3);
            file.read_to_string(&mut text)
        });
        read.map_err(|e| format!("password_file={} can not be read: {e}", path.display()))?;
        let password = text.trim_end_matches(['\r', '\n']);
        if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
            return Err(format!(
                "password_file={} holds no password: 1 to {PASSWORD_BYTES_MAX} bytes",
                path.display()
            ));
        }
        Ok(Secret(password.to_owned()))
    }
}

/// Who logs in, where anybody does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Login {
    /// The user; empty where none is named.
    pub user: String,
    /// The password, where there is one.
    pub password: Option<Password>,
}
