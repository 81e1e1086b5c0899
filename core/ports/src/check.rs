//! What an engine says about itself when it is asked before anything is started.

/// One thing that was looked at: a connection, a version, a permission, a setting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// What was looked at, such as `PostgreSQL at db1:5432: version`. Never a secret.
    pub what: String,
    /// What was found where it is good; else what is wrong and what to do about it.
    pub found: Result<String, String>,
}

impl Check {
    /// Something that is good.
    pub fn good(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            found: Ok(found.into()),
        }
    }

    /// Something that is wrong.
    pub fn bad(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            found: Err(advice.into()),
        }
    }

    /// Whether it is good.
    pub fn is_good(&self) -> bool {
        self.found.is_ok()
    }
}
