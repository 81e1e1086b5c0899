//! What goes into statements and comes out of them, on both engines alike: whole numbers, text and
//! bytes, each of which may be null.

use crate::fault::Fault;

/// A statement: its name in metrics, and its text for each engine. Parameters are `$1`, `$2`, … on
/// both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Statement {
    /// Its name in metrics.
    pub(crate) name: &'static str,
    pub(crate) sqlite: &'static str,
    #[cfg_attr(not(feature = "postgres"), allow(dead_code))]
    pub(crate) postgres: &'static str,
}

impl Statement {
    /// One whose text is the same on both engines.
    pub(crate) const fn both(name: &'static str, sql: &'static str) -> Self {
        Self::each(name, sql, sql)
    }

    /// One whose text differs.
    pub(crate) const fn each(
        name: &'static str,
        sqlite: &'static str,
        postgres: &'static str,
    ) -> Self {
        Self {
            name,
            sqlite,
            postgres,
        }
    }
}

/// A parameter or a column. The kind is known of a null too: PostgreSQL asks for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Value {
    Int(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

impl From<i64> for Value {
    fn from(n: i64) -> Self {
        Self::Int(Some(n))
    }
}
impl From<u64> for Value {
    /// Above `i64::MAX`, which no count or revision reaches, the highest number.
    fn from(n: u64) -> Self {
        Self::Int(Some(i64::try_from(n).unwrap_or(i64::MAX)))
    }
}
impl From<usize> for Value {
    fn from(n: usize) -> Self {
        Self::from(n as u64)
    }
}
impl From<&str> for Value {
    fn from(s: &str) -> Self {
        Self::Text(Some(s.to_owned()))
    }
}
impl From<Option<&str>> for Value {
    fn from(s: Option<&str>) -> Self {
        Self::Text(s.map(str::to_owned))
    }
}
impl From<&[u8]> for Value {
    fn from(b: &[u8]) -> Self {
        Self::Bytes(Some(b.to_vec()))
    }
}
impl From<Option<&[u8]>> for Value {
    fn from(b: Option<&[u8]>) -> Self {
        Self::Bytes(b.map(<[u8]>::to_vec))
    }
}

/// A row that was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Row(pub(crate) Vec<Value>);

impl Row {
    fn wrong(&self, column: usize, wanted: &str) -> Fault {
        let found = match self.0.get(column) {
            None => "nothing",
            Some(Value::Int(_)) => "a number",
            Some(Value::Text(_)) => "text",
            Some(Value::Bytes(_)) => "bytes",
        };
        Fault::Damaged(format!("column {column} has {found}, not {wanted}"))
    }

    /// The number of a column; that it is null is damage.
    pub(crate) fn int(&self, column: usize) -> Result<i64, Fault> {
        match self.0.get(column) {
            Some(Value::Int(Some(n))) => Ok(*n),
            _ => Err(self.wrong(column, "a number")),
        }
    }

    /// A number that is never below 0.
    pub(crate) fn count(&self, column: usize) -> Result<u64, Fault> {
        u64::try_from(self.int(column)?).map_err(|_| self.wrong(column, "a number from 0 up"))
    }

    /// The text of a column; that it is null is damage.
    pub(crate) fn text(&self, column: usize) -> Result<String, Fault> {
        self.text_or_null(column)?
            .ok_or_else(|| self.wrong(column, "text"))
    }

    /// The text of a column, or null.
    pub(crate) fn text_or_null(&self, column: usize) -> Result<Option<String>, Fault> {
        match self.0.get(column) {
            Some(Value::Text(s)) => Ok(s.clone()),
            // A null of SQLite has no kind.
            Some(Value::Int(None) | Value::Bytes(None)) => Ok(None),
            _ => Err(self.wrong(column, "text")),
        }
    }

    /// The bytes of a column, or null.
    pub(crate) fn bytes_or_null(&self, column: usize) -> Result<Option<Vec<u8>>, Fault> {
        match self.0.get(column) {
            Some(Value::Bytes(b)) => Ok(b.clone()),
            Some(Value::Int(None) | Value::Text(None)) => Ok(None),
            _ => Err(self.wrong(column, "bytes")),
        }
    }

    /// Whether a column is null.
    pub(crate) fn is_null(&self, column: usize) -> bool {
        matches!(
            self.0.get(column),
            None | Some(Value::Int(None) | Value::Text(None) | Value::Bytes(None))
        )
    }
}
